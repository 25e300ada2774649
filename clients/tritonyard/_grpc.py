"""gRPC, sync and async: channels of grpcio."""

import ssl
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritonyard._connection import Connection, Tls
from tritonyard._grpc_codec import Method, generate_answer, generate_request, method_of
from tritonyard._transport import Answer, Call, Deadline, Generate, Headers, Refused

CHANNEL_OPTIONS = [
    # Batches of embeddings outgrow gRPC's 4 MB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it looks again at a server that was away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
COMPRESSIONS = {None: None, "gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


# When a server asks to be left alone: in milliseconds (gRPC's retry design, A6), or as proxies pass on HTTP's.
PUSHBACKS = {"retry-pushback-ms": 1e-3, "retry-after": 1.0}


def _refused(error: grpc.RpcError) -> Refused:
    return Refused(error.code().name, error.details() or "", retry_after=_retry_after(error))


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


class GrpcTransport:
    """A channel of its own, shared by all threads."""

    def __init__(self, connection: Connection):
        self._channel = _channel(grpc, connection)
        self._stub = _stub(self._channel)

    def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        """Call and wait; 0.15 ms faster than a future that is waited for."""
        method = method_of(call)
        try:
            message = getattr(self._stub, method.name)(method.encode(call), timeout=deadline.left(), metadata=headers)
        except grpc.RpcError as error:
            raise _refused(error) from None
        except ValueError as error:  # grpcio's word for a closed channel
            raise Refused("CANCELLED", str(error)) from None
        return method.decode(message)

    def start(self, call: Call, deadline: Deadline, headers: Headers) -> "GrpcPending":
        """Send without waiting; gRPC's own thread receives."""
        method = method_of(call)
        try:
            future = getattr(self._stub, method.name).future(
                method.encode(call), timeout=deadline.left(), metadata=headers
            )
        except ValueError as error:
            raise Refused("CANCELLED", str(error)) from None
        return GrpcPending(future, method)

    def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> "GrpcAnswers":
        """Send the request on a stream of its own, and nothing after it."""
        request = generate_request(call)
        try:
            return GrpcAnswers(self._stub.ModelStreamInfer(request, timeout=deadline.left(), metadata=headers))
        except ValueError as error:
            raise Refused("CANCELLED", str(error)) from None

    def close(self) -> None:
        """Close the channel; calls under way end."""
        self._channel.close()


class GrpcPending:
    """A gRPC future and how its answer is read."""

    def __init__(self, future: Any, method: Method):
        self._future, self._method = future, method

    def result(self) -> Any:
        """Wait for the answer; gRPC itself ends it at the deadline."""
        try:
            message = self._future.result()
        except grpc.RpcError as error:
            raise _refused(error) from None
        except grpc.FutureCancelledError:
            raise Refused("CANCELLED", "the call was cancelled") from None
        return self._method.decode(message)

    def cancel(self) -> None:
        """Cancel on the server too."""
        self._future.cancel()


class GrpcAnswers:
    """A stream of gRPC and how its answers are read; gRPC itself ends it at the deadline."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __iter__(self) -> Iterator[Answer]:
        is_first = True
        try:
            for message in self._stream:
                yield generate_answer(message, is_first)
                is_first = False
        except grpc.RpcError as error:
            raise _refused(error) from None

    def cancel(self) -> None:
        """Cancel on the server too; nothing happens where the stream is over."""
        self._stream.cancel()


class AsyncGrpcTransport:
    """A channel of its own, opened by the first call: it belongs to the event loop of that call."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._channel: Any = None
        self._stub: Any = None

    async def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        """Call and wait."""
        method = method_of(call)
        try:
            message = await getattr(self._opened(), method.name)(
                method.encode(call), timeout=deadline.left(), metadata=headers
            )
        except grpc.RpcError as error:
            raise _refused(error) from None
        except grpc.aio.UsageError as error:  # grpcio's word for a closed channel
            raise Refused("CANCELLED", str(error)) from None
        return method.decode(message)

    async def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> AsyncGenerator[Answer, None]:
        """Send the request on a stream of its own, and nothing after it; yield the answers."""
        request = generate_request(call)
        try:
            stream = self._opened().ModelStreamInfer(request, timeout=deadline.left(), metadata=headers)
        except grpc.aio.UsageError as error:
            raise Refused("CANCELLED", str(error)) from None
        is_first = True
        try:
            async for message in stream:
                yield generate_answer(message, is_first)
                is_first = False
        except grpc.RpcError as error:
            raise _refused(error) from None
        finally:
            stream.cancel()

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        if self._channel is not None:
            await self._channel.close()

    def _opened(self) -> Any:
        if self._channel is None:
            self._channel = _channel(grpc.aio, self._connection)
            self._stub = _stub(self._channel)
        return self._stub
