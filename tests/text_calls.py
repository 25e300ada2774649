"""Requests to a generate ensemble on a real tritonserver, by tritonclient and by plain HTTP; a tokenizer for it."""

import http.client
import json
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from serving.server import Server

ANSWER_S = 30.0


def byte_tokenizer() -> Tokenizer:
    """A token a byte, whose id is the byte's place in the sorted alphabet."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TYPES = {
    bool: ("BOOL", bool),
    int: ("INT32", np.int32),
    np.uint64: ("UINT64", np.uint64),
    float: ("FP32", np.float32),
    str: ("BYTES", object),
    bytes: ("BYTES", object),
}


def tensors(request: dict[str, Any]) -> list[Any]:
    """The inputs of a request: a value a tensor, or a list of them."""
    made = []
    for name, value in request.items():
        values = value if isinstance(value, list) else [value]
        dtype, numpy_type = TYPES[type(values[0])]
        rows = [[each.encode() if isinstance(each, str) else each for each in values]]
        made.append(grpc.InferInput(name, [1, len(values)], dtype))
        made[-1].set_data_from_numpy(np.array(rows, numpy_type))
    return made


class TextCall:
    """One request over a gRPC stream of its own; iterating gives its NAMES of each answer, (text, finish reason).

    `options` are tritonclient's own, `timeout` and `parameters` among them.
    """

    NAMES: tuple[str, ...] = ("text_output", "finish_reason")

    def __init__(self, server: Server, model: str, request: dict[str, Any], id: str = "", **options: Any):
        self._landed: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client = grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))
        self.client.start_stream(lambda result, error: self._landed.put((result, error)))
        self.client.async_stream_infer(
            model, tensors(request), request_id=id, enable_empty_final_response=True, **options
        )

    def __iter__(self) -> Iterator[Any]:
        while True:
            result, error = self._landed.get(timeout=ANSWER_S)
            if error is not None:
                self.client.close()
                raise error
            if result.as_numpy("text_output") is not None:
                text, reason, *counts = (result.as_numpy(name).item() for name in self.NAMES)
                yield text.decode(), reason.decode(), *counts
            if result.get_response().parameters["triton_final_response"].bool_param:
                self.client.close()
                return

    def cancel(self) -> None:
        self.client.stop_stream(cancel_requests=True)


class Call(TextCall):
    """A call whose answers are (text, finish reason, input tokens, output tokens)."""

    NAMES = (*TextCall.NAMES, "num_input_tokens", "num_output_tokens")


def post(server: Server, model: str, kind: str, request: dict[str, Any]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(server.http_url.removeprefix("http://"), timeout=ANSWER_S)
    connection.request("POST", f"/v2/models/{model}/{kind}", json.dumps(request))
    return connection.getresponse()
