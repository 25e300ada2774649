"""What both clients are: settings that are checked, models that are remembered, addresses that take turns."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Generic

from tritonyard._connection import DEFAULT_URL, Address, AnyToken, Compression, Connection, Tls
from tritonyard._endpoints import Carrier, Endpoint, Endpoints
from tritonyard._errors import ClientClosed, InvalidRequest
from tritonyard._flows import utf8
from tritonyard._mock import MockTransport
from tritonyard._policy import OnEvent, Policy
from tritonyard._retry import DEFAULT_RETRY, Retry
from tritonyard._shared_memory import Segments
from tritonyard._tracing import Operation
from tritonyard._transport import Deadline, ModelConfig

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class BaseClient(Generic[Carrier, AnyToken]):
    """The part of a client that neither waits nor sends."""

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        model: str | None = None,
        timeout: float = 30.0,
        concurrency: int = 8,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: AnyToken | None = None,
        compression: Compression | None = None,
        retry: Retry = DEFAULT_RETRY,
        on_event: OnEvent | None = None,
        tracer: "Tracer | None" = None,
        shared_memory: bool = False,
        transport: MockTransport | None = None,
    ):
        connections = [Connection(each, tls, headers, token, compression) for each in _addresses(url)]
        self.urls = tuple(str(each.address) for each in connections)
        self.model = model
        self.timeout = _seconds(timeout)
        if not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidRequest(f"concurrency {concurrency!r} is not a whole number of 1 or more")
        if not isinstance(retry, Retry):
            raise InvalidRequest(f"retry is {type(retry).__name__}; pass Retry(attempts=...), with 1 for never again")
        if shared_memory and len(connections) > 1:
            raise InvalidRequest("shared_memory is with one server, on this host; name one url")
        self.concurrency = concurrency
        self._segments = Segments() if shared_memory else None
        self._configs: dict[str, ModelConfig] = {}
        self._tracer = tracer
        self._endpoints = Endpoints([Endpoint(each, self._reach(each, transport)) for each in connections])
        self._policy = Policy(self._endpoints, retry, on_event)

    def _reach(self, connection: Connection, mock: MockTransport | None) -> Carrier:
        """Return what carries calls to one address, or takes the place of it."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The first of `urls`."""
        return self.urls[0]

    def __repr__(self) -> str:
        urls = ", ".join(map(repr, self.urls))
        return f"{type(self).__name__}({urls}, model={self.model!r}, timeout={self.timeout:g})"

    def _named(self, model: str | None) -> str:
        name = self.model if model is None else model
        if not name:
            raise InvalidRequest("no model is named; pass model= to the client or to the call", url=self.url)
        utf8(name, "the model's name")
        return name

    def _operation(self, name: str, model: str | None, timeout: float | None) -> Operation:
        """Begin one call of a method: its budget runs from here."""
        if self._policy.closed.is_set():
            raise ClientClosed("the client is closed", url=self.url)
        deadline = Deadline(self.timeout if timeout is None else _seconds(timeout))
        return Operation(name, model, deadline, self._tracer)


def _addresses(url: str | Sequence[str]) -> list[Address]:
    urls = [url] if isinstance(url, str) or not isinstance(url, Sequence) else list(url)
    if not urls:
        raise InvalidRequest("url is empty; name at least one address")
    addresses = [Address(each) for each in urls]
    named = [str(each) for each in addresses]
    for each in named:
        if named.count(each) > 1:
            raise InvalidRequest(f"url names '{each}' twice; leave one of them out")
    return addresses


def _seconds(timeout: float) -> float:
    if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InvalidRequest(f"timeout {timeout!r} is not a number of seconds above 0")
    return float(timeout)
