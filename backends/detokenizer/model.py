"""Triton python-based backend `detokenizer`: a decoder's token ids in, text in deltas out.

Runs inside Triton from its own folder and imports nothing of the project. The version folder holds the checkpoint's
`tokenizer.json` (Hugging Face tokenizers). Model parameters:

    decoder   name of the model that sends the tokens; it is told to stop when nobody needs more of them

The model is decoupled, has one instance and no batching: it alone sees every delta of a stream, in order, and whether
the caller has gone. What is held back costs no response.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from incremental import Vocabulary
from stream import Stream
from tokenizers import Tokenizer


class TritonPythonModel:
    """The detokenizer step: `output_ids` INT32 [1, 1, n] and `stream_context` -> `text_output` BYTES [1, 1].

    `finish_reason` BYTES [1, 1] comes with a stream's last response, and goes out empty until the last one.
    `num_input_tokens` and `num_output_tokens` INT32 [1, 1] are counted here: a tensor less is a tenth of a millisecond
    less a token.
    """

    def initialize(self, args):
        """Load `tokenizer.json`; raise when it or a parameter is missing, so that the model fails to load."""
        config = json.loads(args["model_config"])
        self.name = config["name"]
        self.decoder = config["parameters"]["decoder"]["string_value"]
        file = Path(args["model_repository"]) / args["model_version"] / "tokenizer.json"
        if not file.exists():
            raise pb_utils.TritonModelException(f"{self.name}: {file} is missing; run `yard repository`")
        self.vocabulary = Vocabulary(Tokenizer.from_file(str(file)))
        self.streams = {}
        # Kept: a metric whose family is gone cannot be set.
        self.family = pb_utils.MetricFamily(
            name="tritonyard_detokenizer_streams",
            description="Streams whose finish reason has not come yet",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self.gauge = self.family.Metric(labels={"model": self.name})

    def execute(self, requests):
        """Answer each response of the decoder with at most one of its own."""
        for request in requests:
            self._advance(request, request.get_response_sender())

    def finalize(self):
        """Let go of the metric while the stub still lives: later it crashes it."""
        del self.gauge
        del self.family

    def _advance(self, request, sender):
        context = _input(request, "stream_context").item()
        try:
            stream = self.streams.get(context) or self._open(context)
        except ValueError as error:
            fault = f"{self.name}: stream_context is not what the tokenizer step mints: {error}"
            refusal = pb_utils.TritonError(fault, pb_utils.TritonError.INVALID_ARG)
            sender.send(pb_utils.InferenceResponse(error=refusal), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        ids, ended = _input(request, "output_ids").reshape(-1).tolist(), _finish_reason(request)
        cancelled = stream.asks(ids) and request.is_cancelled()
        answer = stream.answer(ids, ended or ("cancelled" if cancelled else ""))
        if answer:
            sender.send(_response(stream, *answer), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        if ended:
            self._close(context)
        elif answer and stream.done:
            self._stop(context)

    def _open(self, context):
        stream = self.streams[context] = Stream(context, self.vocabulary)
        self.gauge.set(len(self.streams))
        return stream

    def _close(self, context):
        del self.streams[context]
        self.gauge.set(len(self.streams))

    def _stop(self, context):
        """Tell the decoder that this stream needs no more tokens; it answers with its last response."""
        inputs = [
            pb_utils.Tensor("stop", np.array([[True]])),
            pb_utils.Tensor("stream_context", np.array([[context]], object)),
        ]
        request = pb_utils.InferenceRequest(model_name=self.decoder, requested_output_names=[], inputs=inputs)
        for response in request.exec(decoupled=True):
            if response.has_error():
                pb_utils.Logger.log_warn(f"{self.name}: {self.decoder} was not stopped: {response.error().message()}")


def _input(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _finish_reason(request):
    """Return the decoder's finish reason, "" until it has one: Triton leaves an unwritten tensor out."""
    tensor = pb_utils.get_input_tensor_by_name(request, "finish_reason")
    return tensor.as_numpy().item().decode() if tensor is not None else ""


def _response(stream, text, reason):
    outputs = {
        "text_output": np.array([[text.encode()]], object),
        "num_input_tokens": np.array([[stream.input_tokens]], np.int32),
        "num_output_tokens": np.array([[stream.output_tokens]], np.int32),
        "finish_reason": np.array([[reason.encode()]], object),
    }
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])
