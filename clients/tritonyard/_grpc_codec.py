"""KServe over gRPC as messages: which message a call is, and what an answer says. Touches no channel."""

import math
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from tritonclient.grpc import model_config_pb2, service_pb2

from tritonyard._datatype import datatype_named
from tritonyard._transport import (
    Answer,
    Call,
    Generate,
    GetConfig,
    Infer,
    ModelConfig,
    Parameter,
    Place,
    Probe,
    Refused,
    Register,
    TensorConfig,
    Unregister,
    tensor,
)

# Where KServe's message holds the values of a datatype.
CONTENTS = {
    "BYTES": "bytes_contents",
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
}
DATA_TYPES = {number: name for name, number in model_config_pb2.DataType.items()}
# How the one value of an answer is packed: read without numpy, whose arrays take longer than the rest of an answer.
PACKED = {
    "BOOL": struct.Struct("<?"),
    "INT32": struct.Struct("<i"),
    "INT64": struct.Struct("<q"),
    "UINT32": struct.Struct("<I"),
    "UINT64": struct.Struct("<Q"),
    "FP16": struct.Struct("<e"),
    "FP32": struct.Struct("<f"),
    "FP64": struct.Struct("<d"),
}
# Where it holds a request's parameter.
PARAMETERS = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


class Method(NamedTuple):
    """How a call travels: the stub's method, the message there, and the answer back."""

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _infer_request(call: Infer) -> Any:
    message = service_pb2.ModelInferRequest(model_name=call.model, id=call.id)
    for each in call.inputs:
        tensor = message.inputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        if each.place is None:
            message.raw_input_contents.append(each.raw)
        else:
            _put(tensor, each.place)
    for name in call.outputs:
        tensor = message.outputs.add(name=name)
        if name in call.places:
            _put(tensor, call.places[name])
    _parametrise(message, call.parameters)
    return message


def _parametrise(message: Any, parameters: Mapping[str, Parameter]) -> None:
    for key, value in parameters.items():
        setattr(message.parameters[key], PARAMETERS[type(value)], value)


def _put(tensor: Any, place: Place) -> None:
    tensor.parameters["shared_memory_region"].string_param = place.name
    tensor.parameters["shared_memory_offset"].int64_param = place.offset
    tensor.parameters["shared_memory_byte_size"].int64_param = place.size


def _infer_answer(message: Any, places: Collection[str] = ()) -> Any:
    answer: dict[str, Any] = {}
    for output, raw in _pairs(message):
        name, datatype, shape = output.name, output.datatype, tuple(output.shape)
        answer[name] = TensorConfig(datatype, shape) if name in places else tensor(name, datatype, shape, raw)
    return answer


def _pairs(message: Any) -> Iterator[tuple[Any, bytes]]:
    """Return each output with its content."""
    raws = message.raw_output_contents
    if len(raws) != len(message.outputs):
        raise Refused("INTERNAL", f"{len(message.outputs)} outputs came with {len(raws)} contents")
    return zip(message.outputs, raws, strict=True)


def generate_request(call: Generate) -> Any:
    """Return the message of a generation."""
    message = service_pb2.ModelInferRequest(model_name=call.model, id=call.id)
    for name, (datatype, content) in call.inputs.items():
        values = [each.encode() if isinstance(each, str) else each for each in content]
        contents = {CONTENTS[datatype]: values}
        message.inputs.add(name=name, datatype=datatype, shape=[1, len(values)], contents=contents)
    _parametrise(message, call.parameters)
    return message


def generate_answer(message: Any, is_first: bool) -> Answer:
    """Read one answer of a stream; raise Refused where there is a text without a status in its place.

    Before the first answer, as over HTTP, that is about the request, unless its words say otherwise. (Triton gives real
    statuses to who sends `triton_grpc_error`; but a hundred refusals so told crash tritonserver 2.51.)
    """
    if message.error_message:
        raise Refused(None if is_first else "UNKNOWN", message.error_message)
    return {output.name: _values(output, raw) for output, raw in _pairs(message.infer_response)}


def _values(output: Any, raw: bytes) -> Any:
    """Return the one value of an output, or the list of them that Triton's JSON has: BYTES as str, dimensions left out.

    Raises Refused: it contradicts itself, or is not UTF-8.
    """
    if math.prod(output.shape) == 1:
        return _scalar(output, raw)
    flat = tensor(output.name, output.datatype, output.shape, raw).ravel().tolist()
    return [_text(output, each) for each in flat] if output.datatype == "BYTES" else flat


def _text(output: Any, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Refused("INTERNAL", f"output '{output.name}' is not UTF-8: {error}") from None


def _scalar(output: Any, raw: bytes) -> str | int | float:
    datatype = output.datatype
    if datatype == "BYTES" and int.from_bytes(raw[:4], "little") == len(raw) - 4:
        return _text(output, raw[4:])
    if datatype in PACKED and PACKED[datatype].size == len(raw):
        value: int | float = PACKED[datatype].unpack(raw)[0]
        return value
    fact = f"output '{output.name}' is {datatype} {list(output.shape)} in {len(raw)} bytes"
    raise Refused("INTERNAL", f"{fact}, which cannot be")


def _config(message: Any) -> ModelConfig:
    config = message.config
    decoupled = config.model_transaction_policy.decoupled
    return ModelConfig(config.max_batch_size, _tensors(config.input), _tensors(config.output), decoupled)


def _tensors(declared: Any) -> dict[str, TensorConfig]:
    return {
        each.name: TensorConfig(
            datatype_named(DATA_TYPES.get(each.data_type, "TYPE_INVALID")),
            tuple(each.dims),
            getattr(each, "optional", False),
        )
        for each in declared
    }


def _register(call: Register) -> Any:
    return service_pb2.SystemSharedMemoryRegisterRequest(name=call.name, key=call.key, byte_size=call.size)


INFER = Method("ModelInfer", _infer_request, _infer_answer)
CONFIG = Method("ModelConfig", lambda call: service_pb2.ModelConfigRequest(name=call.model), _config)
SERVER_READY = Method("ServerReady", lambda _: service_pb2.ServerReadyRequest(), lambda answer: answer.ready)
MODEL_READY = Method(
    "ModelReady", lambda call: service_pb2.ModelReadyRequest(name=call.model), lambda answer: answer.ready
)
REGISTER = Method("SystemSharedMemoryRegister", _register, lambda answer: None)
UNREGISTER = Method(
    "SystemSharedMemoryUnregister",
    lambda call: service_pb2.SystemSharedMemoryUnregisterRequest(name=call.name),
    lambda answer: None,
)


def method_of(call: Call) -> Method:
    """Return how a call that has one answer travels."""
    match call:
        case Infer(places=places):
            return INFER._replace(decode=lambda answer: _infer_answer(answer, places)) if places else INFER
        case GetConfig():
            return CONFIG
        case Probe():
            return SERVER_READY if call.model is None else MODEL_READY
        case Register():
            return REGISTER
        case Unregister():
            return UNREGISTER
