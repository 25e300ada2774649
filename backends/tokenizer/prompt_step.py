"""A prompt step inside Triton: its tensors in and out, whatever the decoder behind it wants to know."""

import numpy as np
import triton_python_backend_utils as pb_utils
from refusal import Refusal


class PromptStep:
    """The inputs of `prompt.Prompts`, each [1, n] -> the tensors that `make` returns by name.

    `make` is called with the sent inputs (name -> list of elements) and the request's id, "" where it has none; it
    raises Refusal.
    """

    def __init__(self, config, make):
        self.name, self._make = config["name"], make
        self._inputs = [entry["name"] for entry in config["input"]]

    def execute(self, requests):
        """Make the prompt of each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self._inputs}
        sent = {name: tensor.as_numpy().reshape(-1).tolist() for name, tensor in tensors.items() if tensor is not None}
        try:
            outputs = self._make(sent, request.request_id())
        except Refusal as refusal:
            error = pb_utils.TritonError(f"{self.name}: {refusal}", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])


def open_stream_at(detokenizer):
    """Return the function that opens a stream at the model `detokenizer`: `open_stream(request_id, context)`.

    It raises Refusal with the detokenizer's own words.
    """

    def open_stream(request_id, context):
        request = pb_utils.InferenceRequest(
            model_name=detokenizer,
            request_id=request_id,
            requested_output_names=[],
            inputs=[pb_utils.Tensor("stream_context", np.array([[context]], object))],
        )
        for response in request.exec(decoupled=True):
            if response.has_error():
                raise Refusal(response.error().message())

    return open_stream
