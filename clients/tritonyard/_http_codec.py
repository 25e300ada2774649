"""KServe over HTTP as plain data: which request a call is, and what an answer says. Touches no socket."""

import gzip
import json
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from tritonyard._connection import Compression
from tritonyard._datatype import datatype_named
from tritonyard._transport import (
    Answer,
    Call,
    Generate,
    GetConfig,
    Headers,
    Infer,
    ModelConfig,
    Place,
    Probe,
    Refused,
    Register,
    TensorConfig,
    Unregister,
    tensor,
)

# How many bytes of a body are JSON; the tensors follow in binary form (Triton's binary data extension).
JSON_LENGTH = "Inference-Header-Content-Length"
# A body of fewer bytes is sent together with its head: copying it costs less than sending twice.
SMALL = 65536
# A server or model that is not ready, or not there, says so by its code alone.
NOT_READY = (400, 404, 503)


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None


def encode(call: Call | Generate) -> Request:
    """Return the HTTP request of a call."""
    match call:
        case Infer():
            header = json.dumps(_infer_json(call)).encode()
            headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(header))}
            body = b"".join([header, *(each.raw for each in call.inputs)])
            return Request("POST", f"{_path(call.model)}/infer", headers, body)
        case Generate():
            path = f"{_path(call.model)}/{'generate_stream' if call.stream else 'generate'}"
            inputs = {name: content for name, (_, content) in call.inputs.items()}
            body = json.dumps({"id": call.id, **call.parameters, **inputs}).encode()
            return Request("POST", path, {"Content-Type": "application/json"}, body)
        case GetConfig():
            return Request("GET", f"{_path(call.model)}/config", {}, None)
        case Probe():
            path = "/v2/health" if call.model is None else _path(call.model)
            return Request("GET", f"{path}/ready", {}, None)
        case Register():
            body = json.dumps({"key": call.key, "offset": 0, "byte_size": call.size}).encode()
            return Request("POST", f"{_region(call.name)}/register", {}, body)
        case Unregister():
            return Request("POST", f"{_region(call.name)}/unregister", {}, b"")


def written(request: Request, host: str, headers: Headers) -> list[bytes]:
    """Return what a request of HTTP/1.1 is on the wire, in the parts that it is sent in."""
    body = request.body or b""
    length = {} if request.body is None else {"Content-Length": str(len(body))}
    every = {"Host": host, "Accept-Encoding": "identity", **length, **request.headers, **dict(headers)}
    lines = [
        f"{request.method} {request.path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in every.items()),
        "",
        "",
    ]
    head = "\r\n".join(lines).encode("latin-1")
    return [head + body] if len(body) < SMALL else [head, body]


def compressed(request: Request, compression: Compression | None) -> Request:
    """Return `request` with its body compressed, where tritonserver takes that: in an inference.

    It refuses a `generate` and a `generate_stream` with any content-encoding.
    """
    if compression is None or request.body is None or not request.path.endswith("/infer"):
        return request
    body = gzip.compress(request.body) if compression == "gzip" else zlib.compress(request.body)
    return request._replace(headers={**request.headers, "Content-Encoding": compression}, body=body)


def decode(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Any:
    """Return the answer to a call, `headers` by their names in lower case.

    Raises Refused: the server gave none, or one that makes no sense.
    """
    if isinstance(call, Probe) and status in NOT_READY:
        return False
    if status != 200:
        raise Refused(status, _words(body), retry_after=retry_after(headers))
    try:
        match call:
            case Infer(places=places):
                # Where no output has a single byte, Triton leaves the length out.
                return _tensors(body, int(headers.get(JSON_LENGTH.lower(), len(body))), places)
            case GetConfig():
                return _config(json.loads(body))
            case Probe():
                return True
            case Register() | Unregister():
                return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("INTERNAL", f"the answer is not KServe's: {type(error).__name__}: {error}") from None


class Body:
    """The body of the answer to a Generate, cut into answers as it arrives.

    It is server-sent events, whose data Triton writes in one line each, or one JSON object with nothing around it
    (Triton's generate extension).
    """

    def __init__(self, status: int, headers: Mapping[str, str]):
        self._status, self._headers = status, headers
        self._rest = b""

    def cut(self, data: bytes) -> Iterator[Answer]:
        """Yield the answers that `data` completes; b"" is the body's end. Raise Refused."""
        self._rest += data
        if self._status != 200:
            if not data:
                words = _words(self._rest.removeprefix(b"data:"))
                raise Refused(self._status, words, retry_after=retry_after(self._headers))
            return
        *lines, self._rest = self._rest.split(b"\n") if data else [self._rest, b""]
        for line in lines:
            if text := line.removeprefix(b"data:").strip():
                yield _answer(text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After (RFC 9110, 10.2.3), which may also be a date; None without a good one."""
    told = headers.get("retry-after", "")
    if told.isascii() and told.isdigit():
        return float(told)
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _answer(text: bytes) -> Answer:
    try:
        answer: Answer = json.loads(text)
        error = answer.get("error")
    except (ValueError, AttributeError) as fault:
        raise Refused("INTERNAL", f"the answer is not Triton's: {type(fault).__name__}: {fault}") from None
    if error is not None:
        # The code was sent before the error was known.
        raise Refused("UNKNOWN", str(error))
    return answer


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _region(name: str) -> str:
    return f"/v2/systemsharedmemory/region/{quote(name, safe='')}"


def _placed(place: Place) -> dict[str, Any]:
    return {
        "shared_memory_region": place.name,
        "shared_memory_offset": place.offset,
        "shared_memory_byte_size": place.size,
    }


def _infer_json(call: Infer) -> dict[str, Any]:
    return {
        "id": call.id,
        "parameters": call.parameters,
        "inputs": [
            {
                "name": each.name,
                "datatype": each.datatype,
                "shape": each.shape,
                "parameters": _placed(each.place) if each.place else {"binary_data_size": len(each.raw)},
            }
            for each in call.inputs
        ],
        "outputs": [
            {"name": name, "parameters": _placed(call.places[name]) if name in call.places else {"binary_data": True}}
            for name in call.outputs
        ],
    }


def _tensors(body: bytes, json_length: int, places: Collection[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    found = json_length
    for output in json.loads(body[:json_length])["outputs"]:
        if output["name"] in places:
            answer[output["name"]] = TensorConfig(output["datatype"], tuple(output["shape"]))
            continue
        size = output["parameters"]["binary_data_size"]
        raw = body[found : found + size]
        answer[output["name"]] = tensor(output["name"], output["datatype"], output["shape"], raw)
        found += size
    return answer


def _config(config: dict[str, Any]) -> ModelConfig:
    def declared(side: str) -> dict[str, TensorConfig]:
        return {each["name"]: _declared(each) for each in config[side]}

    decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled", False))
    return ModelConfig(int(config.get("max_batch_size", 0)), declared("input"), declared("output"), decoupled)


def _declared(config: dict[str, Any]) -> TensorConfig:
    datatype = datatype_named(config.get("data_type", "TYPE_INVALID"))
    return TensorConfig(datatype, tuple(map(int, config["dims"])), bool(config.get("optional", False)))


def _words(body: bytes) -> str:
    """Return the server's own words: Triton's JSON, or the beginning of whatever else answered."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace").strip()
