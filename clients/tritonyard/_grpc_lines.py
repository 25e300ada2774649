"""The lines of gRPC to one server: how they are opened, which one a call takes, and when it is given up."""

import contextlib
import math
import ssl
import threading
import weakref
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritonyard._connection import Connection, Tls
from tritonyard._retry import fate_of
from tritonyard._transport import Refused

CHANNEL_OPTIONS = [
    # Batches of embeddings outgrow gRPC's 4 MB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it looks again at a server that was away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A new channel is a new connection, also while an old one to the same server is still there.
    ("grpc.use_local_subchannel_pool", 1),
]
# How many streams a line carries. HTTP/2 wants a connection to be allowed 100 at least (RFC 9113, 6.5.2), and
# proxies often allow no more; the rest are for calls. More connections are not faster: 16, 64 and 256 streams over 2,
# 4, 8 and 64 of them took as long as over one, within what two shared cores can tell.
STREAMS = 64
COMPRESSIONS = {None: None, "gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
# When a server asks to be left alone: in milliseconds (gRPC's retry design, A6), or as proxies pass on HTTP's.
PUSHBACKS = {"retry-pushback-ms": 1e-3, "retry-after": 1.0}


def _retry_after(error: grpc.RpcError) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key in PUSHBACKS and str(value).isdigit():
            return int(value) * PUSHBACKS[key]
    return None


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    # gRPC brings CAs of its own; those of the system are what HTTP goes by.
    ca, certificate, key = (
        Path(path).read_bytes() if path else None
        for path in (tls.ca or ssl.get_default_verify_paths().cafile, tls.certificate, tls.key or tls.certificate)
    )
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _open(library: Any, connection: Connection) -> Any:
    """Return a channel of `grpc` or `grpc.aio`, which connects when it is first used."""
    target, compression = connection.address.netloc, COMPRESSIONS[connection.compression]
    if connection.tls is None:
        return library.insecure_channel(target, CHANNEL_OPTIONS, compression)
    return library.secure_channel(target, _credentials(connection.tls), CHANNEL_OPTIONS, compression)


class Line:
    """A channel with Triton's methods on it, `stub`, and how many streams it carries; a call under way holds it.

    A stream is one message that has many answers, the same on the wire: with an iterator of messages, grpc.aio often
    tells a refusal that comes early as an internal error of its own (github.com/grpc/grpc/issues/36066), and grpc keeps
    a thread to read it.
    """

    def __init__(self, library: Any, connection: Connection):
        self.channel, self.streams = _open(library, connection), 0
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.stub.ModelStreamInfer = self.channel.unary_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )


class Lines:
    """The lines that new calls take, and those that old calls are still on. Safe to use from many threads.

    A stream goes by the first that has room, and where none has by a new one; a call by the first of all.

    gRPC does not notice a connection that has gone mute, or is mute from the start, for minutes; and what could not
    connect fails all calls at once for up to a second, though the server be back. So what ran out of time on a line, or
    found none, makes later calls take another one. (Pings would notice, but tritonserver forbids frequent ones.)
    """

    def __init__(self, library: Any, connection: Connection):
        self._library, self._connection = library, connection
        self._all: weakref.WeakSet[Line] = weakref.WeakSet()
        self._current: list[Line] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def first(self) -> Line:
        """Return the line of the next call that has one answer; raise Refused after `close`."""
        with self._lock:
            return self._with_room(math.inf)

    def take(self) -> Line:
        """Return the line of the next stream, to be given back after it; raise Refused after `close`."""
        with self._lock:
            line = self._with_room(STREAMS)
            line.streams += 1
            return line

    def give_back(self, line: Line) -> None:
        """Count one stream less on `line`."""
        with self._lock:
            line.streams -= 1

    def refused(self, line: Line, error: grpc.RpcError) -> Refused:
        """Return what to raise for the error of a call on `line`."""
        refused = Refused(error.code().name, error.details() or "", retry_after=_retry_after(error))
        if refused.status == "DEADLINE_EXCEEDED" or fate_of(refused) == "unsent":
            with self._lock, contextlib.suppress(ValueError):
                self._current.remove(line)
        return refused

    def close(self) -> list[Any]:
        """Open no more lines; return all channels, to be closed."""
        with self._lock:
            self._is_closed = True
            return [line.channel for line in self._all]

    def _with_room(self, most: float) -> Line:
        if self._is_closed:
            raise Refused("CANCELLED", "the channel is closed")
        for line in self._current:
            if line.streams < most:
                return line
        line = Line(self._library, self._connection)
        self._all.add(line)
        self._current.append(line)
        return line
