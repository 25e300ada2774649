"""What both clients are: settings that are checked, models that are remembered, errors that are worded."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from tritonyard._connection import Connection, tls_mend
from tritonyard._errors import ClientClosed, DeadlineExceeded, InvalidRequest, ServerUnavailable, kind_of
from tritonyard._flows import callers_words, utf8
from tritonyard._transport import Call, Deadline, Generate, ModelConfig, Refused


class BaseClient:
    """The part of a client that neither waits nor sends."""

    def __init__(self, connection: Connection, model: str | None, timeout: float, concurrency: int):
        self._connection = connection
        self.url = str(connection.address)
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
            error = kind(fact, model=call.model, url=self.url, status=refused.status, words=refused.words or None)
            if kind is ServerUnavailable and self._connection.tls is not None:
                error.mend = tls_mend(words) or error.mend
            raise error from None


def _seconds(timeout: float) -> float:
    if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InvalidRequest(f"timeout {timeout!r} is not a number of seconds above 0")
    return float(timeout)
