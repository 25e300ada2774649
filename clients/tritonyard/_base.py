"""What both clients are: settings that are checked, models that are remembered, errors that are worded."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tritonyard._errors import ClientClosed, DeadlineExceeded, InvalidRequest, kind_of
from tritonyard._flows import callers_words, utf8
from tritonyard._transport import Call, Deadline, Generate, ModelConfig, Refused

DEFAULT_URL = "grpc://127.0.0.1:8001"
DEFAULT_PORTS = {"grpc": 8001, "http": 8000}


class Address:
    """Where a server is: `scheme` (grpc or http), `host`, `port`; as text, a URL with all three."""

    def __init__(self, url: str):
        if not isinstance(url, str):
            raise InvalidRequest(f"url is {type(url).__name__}, not str; write grpc://host:port or http://host:port")
        try:
            parts = urlsplit(url if "://" in url else f"grpc://{url}")
            self.scheme, self.host, port = parts.scheme, parts.hostname or "", parts.port
        except ValueError as error:
            raise InvalidRequest(f"url '{url}' cannot be read: {error}; write grpc://host:port") from None
        if self.scheme not in DEFAULT_PORTS:
            raise InvalidRequest(f"url '{url}' has the scheme '{self.scheme}', which is not one of grpc, http")
        if not self.host or parts.path.strip("/") or parts.query or parts.username is not None:
            raise InvalidRequest(f"url '{url}' is not of the form grpc://host:port or http://host:port")
        self.port = DEFAULT_PORTS[self.scheme] if port is None else port

    @property
    def netloc(self) -> str:
        """Host and port, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


class BaseClient:
    """The part of a client that neither waits nor sends."""

    def __init__(self, url: str, model: str | None, timeout: float, concurrency: int):
        self._address = Address(url)
        self.url = str(self._address)
        self.model = model
        self.timeout = _seconds(timeout)
        if not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidRequest(f"concurrency {concurrency!r} is not a whole number of 1 or more")
        self.concurrency = concurrency
        self._configs: dict[str, ModelConfig] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, model={self.model!r}, timeout={self.timeout:g})"

    def _named(self, model: str | None) -> str:
        name = self.model if model is None else model
        if not name:
            raise InvalidRequest("no model is named; pass model= to the client or to the call", url=self.url)
        utf8(name, "the model's name")
        return name

    def _deadline(self, timeout: float | None) -> Deadline:
        if self._closed:
            raise ClientClosed("the client is closed", url=self.url)
        return Deadline(self.timeout if timeout is None else _seconds(timeout))

    @contextmanager
    def _typed(self, call: Call | Generate, deadline: Deadline) -> Iterator[None]:
        """Turn what a transport raises within into an error of this package."""
        try:
            yield
        except Refused as refused:
            words = callers_words(call, refused.words)
            kind = ClientClosed if self._closed else kind_of(refused.status, words)
            fact = words or f"the server answered {refused.status}"
            if kind is DeadlineExceeded:
                what = "complete answer" if isinstance(call, Generate) else "answer"
                fact = f"no {what} within {deadline.timeout:g} s"
            raise kind(
                fact, model=call.model, url=self.url, status=refused.status, words=refused.words or None
            ) from None


def _seconds(timeout: float) -> float:
    if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InvalidRequest(f"timeout {timeout!r} is not a number of seconds above 0")
    return float(timeout)
