"""KServe over gRPC, sync and async: Triton's own protobuf messages on a channel of grpcio."""

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, NamedTuple

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritonyard._transport import (
    Answer,
    Call,
    Deadline,
    Generate,
    GetConfig,
    Infer,
    ModelConfig,
    Probe,
    Refused,
    scalar,
    tensor,
)

CHANNEL_OPTIONS = [
    # Batches of embeddings outgrow gRPC's 4 MB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it looks again at a server that was away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

# Where KServe's message holds the values of a datatype.
CONTENTS = {
    "BYTES": "bytes_contents",
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
}


class Method(NamedTuple):
    """How a call travels: the stub's method, the message there, and the answer back."""

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _infer_request(call: Infer) -> Any:
    message = service_pb2.ModelInferRequest(model_name=call.model)
    for each in call.inputs:
        message.inputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        message.raw_input_contents.append(each.raw)
    for name in call.outputs:
        message.outputs.add(name=name)
    for key, value in call.parameters.items():
        message.parameters[key].bool_param = value
    return message


def _infer_answer(message: Any) -> Any:
    raws = message.raw_output_contents
    if len(raws) != len(message.outputs):
        raise Refused("INTERNAL", f"{len(message.outputs)} outputs came with {len(raws)} contents")
    return {
        output.name: tensor(output.name, output.datatype, list(output.shape), raw)
        for output, raw in zip(message.outputs, raws, strict=True)
    }


def _generate_request(call: Generate) -> Any:
    message = service_pb2.ModelInferRequest(model_name=call.model, id=call.id)
    for name, (datatype, content) in call.inputs.items():
        values = [each.encode() if isinstance(each, str) else each for each in content]
        contents = {CONTENTS[datatype]: values}
        message.inputs.add(name=name, datatype=datatype, shape=[1, len(values)], contents=contents)
    return message


def _generate_answer(message: Any, is_first: bool) -> Answer:
    """Read one answer of a stream; raise Refused where there is a text without a status in its place.

    Before the first answer, as over HTTP, that is about the request, unless its words say otherwise. (Triton gives real
    statuses to who sends `triton_grpc_error`; but a hundred refusals so told crash tritonserver 2.51.)
    """
    if message.error_message:
        raise Refused(None if is_first else "UNKNOWN", message.error_message)
    return {name: scalar(name, array) for name, array in _infer_answer(message.infer_response).items()}


def _config(message: Any) -> ModelConfig:
    config = message.config
    return ModelConfig(
        config.max_batch_size,
        {each.name: tuple(each.dims) for each in config.input},
        {each.name: tuple(each.dims) for each in config.output},
    )


def _method(call: Call) -> Method:
    match call:
        case Infer():
            return Method("ModelInfer", _infer_request, _infer_answer)
        case GetConfig():
            return Method("ModelConfig", lambda call: service_pb2.ModelConfigRequest(name=call.model), _config)
        case Probe(model=None):
            return Method("ServerReady", lambda _: service_pb2.ServerReadyRequest(), lambda answer: answer.ready)
        case Probe():
            return Method(
                "ModelReady",
                lambda call: service_pb2.ModelReadyRequest(name=call.model),
                lambda answer: answer.ready,
            )


def _refused(error: grpc.RpcError) -> Refused:
    return Refused(error.code().name, error.details() or "")


class GrpcTransport:
    """A channel of its own, shared by all threads."""

    def __init__(self, address: str):
        self._channel = grpc.insecure_channel(address, CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def ask(self, call: Call, deadline: Deadline) -> Any:
        """Call and wait; 0.15 ms faster than a future that is waited for."""
        method = _method(call)
        try:
            message = getattr(self._stub, method.name)(method.encode(call), timeout=deadline.left())
        except grpc.RpcError as error:
            raise _refused(error) from None
        except ValueError as error:  # grpcio's word for a closed channel
            raise Refused("CANCELLED", str(error)) from None
        return method.decode(message)

    def start(self, call: Call, deadline: Deadline) -> "GrpcPending":
        """Send without waiting; gRPC's own thread receives."""
        method = _method(call)
        try:
            future = getattr(self._stub, method.name).future(method.encode(call), timeout=deadline.left())
        except ValueError as error:
            raise Refused("CANCELLED", str(error)) from None
        return GrpcPending(future, method)

    def stream(self, call: Generate, deadline: Deadline) -> "GrpcAnswers":
        """Send the request on a stream of its own, and nothing after it."""
        requests = iter([_generate_request(call)])
        try:
            return GrpcAnswers(self._stub.ModelStreamInfer(requests, timeout=deadline.left()))
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
                yield _generate_answer(message, is_first)
                is_first = False
        except grpc.RpcError as error:
            raise _refused(error) from None

    def cancel(self) -> None:
        """Cancel on the server too; nothing happens where the stream is over."""
        self._stream.cancel()


class AsyncGrpcTransport:
    """A channel of its own, opened by the first call: it belongs to the event loop of that call."""

    def __init__(self, address: str):
        self._address = address
        self._channel: Any = None
        self._stub: Any = None

    async def ask(self, call: Call, deadline: Deadline) -> Any:
        """Call and wait."""
        method = _method(call)
        try:
            message = await getattr(self._opened(), method.name)(method.encode(call), timeout=deadline.left())
        except grpc.RpcError as error:
            raise _refused(error) from None
        except grpc.aio.UsageError as error:  # grpcio's word for a closed channel
            raise Refused("CANCELLED", str(error)) from None
        return method.decode(message)

    async def stream(self, call: Generate, deadline: Deadline) -> AsyncGenerator[Answer, None]:
        """Send the request on a stream of its own, and nothing after it; yield the answers."""
        requests = iter([_generate_request(call)])
        try:
            stream = self._opened().ModelStreamInfer(requests, timeout=deadline.left())
        except grpc.aio.UsageError as error:
            raise Refused("CANCELLED", str(error)) from None
        is_first = True
        try:
            async for message in stream:
                yield _generate_answer(message, is_first)
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
            self._channel = grpc.aio.insecure_channel(self._address, CHANNEL_OPTIONS)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self._stub
