"""gRPC, sync and async: channels of grpcio."""

import ssl
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritonyard._connection import Connection, Tls
from tritonyard._grpc_codec import Method, generate_answer, generate_request, method_of
from tritonyard._retry import fate_of
from tritonyard._transport import Answer, Call, Deadline, Generate, Headers, Refused

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


def _channel(library: Any, connection: Connection) -> Any:
    """Return a channel of `grpc` or `grpc.aio`, which connects when it is first used."""
    target, compression = connection.address.netloc, COMPRESSIONS[connection.compression]
    if connection.tls is None:
        return library.insecure_channel(target, CHANNEL_OPTIONS, compression)
    return library.secure_channel(target, _credentials(connection.tls), CHANNEL_OPTIONS, compression)


def _stub(channel: Any) -> Any:
    """Return Triton's methods on `channel`, a stream as one message that has many answers: the same on the wire.

    With an iterator of messages, grpc.aio often tells a refusal that comes early as an internal error of its own
    (github.com/grpc/grpc/issues/36066), and grpc keeps a thread to read it.
    """
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    stub.ModelStreamInfer = channel.unary_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )
    return stub


class _Line:
    """A channel and Triton's methods on it; whoever has a call under way holds it."""

    def __init__(self, library: Any, connection: Connection):
        self.channel = _channel(library, connection)
        self.stub = _stub(self.channel)


class _Lines:
    """The line that new calls take, and those that old calls are still on.

    gRPC does not notice a connection that has gone mute, or is mute from the start, for minutes; and what could not
    connect fails all calls at once for up to a second, though the server be back. So what ran out of time on a line, or
    found none, makes the next call open another one. (Pings would notice, but tritonserver forbids frequent ones.)
    """

    def __init__(self, library: Any, connection: Connection):
        self._library, self._connection = library, connection
        self._all: weakref.WeakSet[_Line] = weakref.WeakSet()
        self._current: _Line | None = None
        self._is_closed = False

    def current(self) -> _Line:
        """Return the line of the next call, opened when it is first needed; raise Refused after `close`."""
        if self._is_closed:
            raise Refused("CANCELLED", "the channel is closed")
        line = self._current
        if line is None:
            line = self._current = _Line(self._library, self._connection)
            self._all.add(line)
        return line

    def refused(self, line: _Line, error: grpc.RpcError) -> Refused:
        """Return what to raise for the error of a call on `line`."""
        refused = Refused(error.code().name, error.details() or "", retry_after=_retry_after(error))
        if line is self._current and (refused.status == "DEADLINE_EXCEEDED" or fate_of(refused) == "unsent"):
            self._current = None
        return refused

    def close(self) -> list[Any]:
        """Open no more lines; return all channels, to be closed."""
        self._is_closed = True
        return [line.channel for line in self._all]


class GrpcTransport:
    """A channel of its own, shared by all threads."""

    def __init__(self, connection: Connection):
        self._lines = _Lines(grpc, connection)

    def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        """Call and wait; 0.15 ms faster than a future that is waited for."""
        method, line = method_of(call), self._lines.current()
        try:
            message = getattr(line.stub, method.name)(method.encode(call), timeout=deadline.left(), metadata=headers)
        except grpc.RpcError as error:
            raise self._lines.refused(line, error) from None
        except ValueError as error:  # grpcio's word for a closed channel
            raise Refused("CANCELLED", str(error)) from None
        return method.decode(message)

    def start(self, call: Call, deadline: Deadline, headers: Headers) -> "GrpcPending":
        """Send without waiting; gRPC's own thread receives."""
        method, line = method_of(call), self._lines.current()
        try:
            future = getattr(line.stub, method.name).future(
                method.encode(call), timeout=deadline.left(), metadata=headers
            )
        except ValueError as error:
            raise Refused("CANCELLED", str(error)) from None
        return GrpcPending(future, method, lambda error: self._lines.refused(line, error))

    def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> "GrpcAnswers":
        """Send the request on a stream of its own, and nothing after it."""
        request, line = generate_request(call), self._lines.current()
        try:
            stream = line.stub.ModelStreamInfer(request, timeout=deadline.left(), metadata=headers)
        except ValueError as error:
            raise Refused("CANCELLED", str(error)) from None
        return GrpcAnswers(stream, lambda error: self._lines.refused(line, error))

    def close(self) -> None:
        """Close all channels; calls under way end."""
        for channel in self._lines.close():
            channel.close()


class GrpcPending:
    """A gRPC future and how its answer is read."""

    def __init__(self, future: Any, method: Method, refused: Callable[[grpc.RpcError], Refused]):
        self._future, self._method, self._refused = future, method, refused

    def result(self) -> Any:
        """Wait for the answer; gRPC itself ends it at the deadline."""
        try:
            message = self._future.result()
        except grpc.RpcError as error:
            raise self._refused(error) from None
        except grpc.FutureCancelledError:
            raise Refused("CANCELLED", "the call was cancelled") from None
        return self._method.decode(message)

    def cancel(self) -> None:
        """Cancel on the server too."""
        self._future.cancel()


class GrpcAnswers:
    """A stream of gRPC and how its answers are read; gRPC itself ends it at the deadline."""

    def __init__(self, stream: Any, refused: Callable[[grpc.RpcError], Refused]):
        self._stream, self._refused = stream, refused

    def __iter__(self) -> Iterator[Answer]:
        is_first = True
        try:
            for message in self._stream:
                yield generate_answer(message, is_first)
                is_first = False
        except grpc.RpcError as error:
            raise self._refused(error) from None

    def cancel(self) -> None:
        """Cancel on the server too; nothing happens where the stream is over."""
        self._stream.cancel()


class AsyncGrpcTransport:
    """A channel of its own, opened by the first call: it belongs to the event loop of that call."""

    def __init__(self, connection: Connection):
        self._lines = _Lines(grpc.aio, connection)

    async def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        """Call and wait."""
        method, line = method_of(call), self._lines.current()
        try:
            message = await getattr(line.stub, method.name)(
                method.encode(call), timeout=deadline.left(), metadata=headers
            )
        except grpc.RpcError as error:
            raise self._lines.refused(line, error) from None
        except grpc.aio.UsageError as error:  # grpcio's word for a closed channel
            raise Refused("CANCELLED", str(error)) from None
        return method.decode(message)

    async def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> AsyncGenerator[Answer, None]:
        """Send the request on a stream of its own, and nothing after it; yield the answers."""
        request, line = generate_request(call), self._lines.current()
        try:
            stream = line.stub.ModelStreamInfer(request, timeout=deadline.left(), metadata=headers)
        except grpc.aio.UsageError as error:
            raise Refused("CANCELLED", str(error)) from None
        # A generator, which holds the call as the call holds it: left open, both stay until they are collected.
        messages = aiter(stream)
        is_first = True
        try:
            async for message in messages:
                yield generate_answer(message, is_first)
                is_first = False
        except grpc.RpcError as error:
            raise self._lines.refused(line, error) from None
        finally:
            stream.cancel()
            await messages.aclose()

    async def close(self) -> None:
        """Close all channels; calls under way end."""
        for channel in self._lines.close():
            await channel.close()
