"""Triton python-based backend `onnx_generate`: token ids in, token ids out, with continuous batching on ONNX Runtime.

Runs inside Triton from its own folder and imports nothing of the project. It speaks the tensor names of TensorRT-LLM's
own `tensorrt_llm` model and adds `stream_context` (opaque, echoed with every response) and `finish_reason` (in the last
one). The version folder holds the engine: model.onnx, its weights, decoder.json. Model parameters:

    max_tokens       tokens that a slot holds, prompt and answer together
    slots            requests that run at once
    max_queue_size   requests that may wait for a slot; one more is refused with UNAVAILABLE
    provider         cpu (default), or cuda: the first GPU that the process sees, through onnxruntime-gpu

A request with `stop` set ends the one that has the same `stream_context`.
"""

import json
import os
import threading
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from decoder import Decoder
from engine import Engine, Generation
from metrics import Metrics
from outbox import Outbox, Parcel
from request import BadRequest, Settings
from scheduler import QueueFull

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# The decoder's input of each setting, as TensorRT-LLM names it.
SETTINGS = {
    "request_output_len": "max_tokens",
    "min_tokens": "min_tokens",
    "temperature": "temperature",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}


def _die(broken):
    """End the process when one of its threads broke: a dead stub is started again, a deaf one is waited for."""
    threading.__excepthook__(broken)
    os._exit(1)


class TritonPythonModel:
    """The decoder step, decoupled: a request is answered by deltas until one carries `finish_reason`."""

    def initialize(self, args):
        """Open the engine; raise, so that the model fails to load."""
        config = json.loads(args["model_config"])
        self.name = config["name"]
        parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        slots, max_tokens, max_queue_size = (int(parameters[key]) for key in ("slots", "max_tokens", "max_queue_size"))
        folder = Path(args["model_repository"]) / args["model_version"]
        try:
            decoder = Decoder(folder, slots, max_tokens, provider=parameters.get("provider", "cpu"))
        except Exception as error:
            raise pb_utils.TritonModelException(f"{self.name}: {error}") from None
        threading.excepthook = _die
        self.engine = Engine(decoder, max_queue_size, on_end=self._ended, on_error=self._failed)
        self.metrics = Metrics(self.name, self.engine)
        self.outbox = Outbox(self.engine.cancel)
        self.streams = {}

    def execute(self, requests):
        """Take the requests in, or refuse them; the answers come later."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except BadRequest as error:
                _refuse(sender, str(error), pb_utils.TritonError.INVALID_ARG)
            except QueueFull as error:
                _refuse(sender, str(error), pb_utils.TritonError.UNAVAILABLE)

    def finalize(self):
        """Stop the threads, and let go of the metrics while the stub still lives: later they crash it."""
        self.engine.close()
        self.outbox.close()
        self.metrics.close()

    def _take(self, request, sender):
        context = _input(request, "stream_context")
        key = None if context is None else context.flat[0]
        if _flag(request, "stop"):
            if generation := self.streams.get(key):
                self.engine.cancel(generation)
            sender.send(flags=FINAL)
            return
        if key in self.streams:
            raise BadRequest("stream_context is that of a request which still runs; give each its own")
        ids = _input(request, "input_ids")
        generation = Generation([] if ids is None else ids.ravel().tolist(), _settings(request))
        # Behind another step `is_cancelled` never turns true here.
        abandoned = sender.is_cancelled if key is None else None
        mail = _Mail(sender, context, set(request.requested_output_names()))
        parcel = Parcel(generation, _flag(request, "streaming"), mail, abandoned)
        generation.on_progress = lambda _: self.outbox.notify(parcel)
        generation.on_end = lambda: self.streams.pop(key, None)
        if key is not None:
            self.streams[key] = generation
        self.outbox.add(parcel)
        try:
            self.engine.submit(generation)
        except (BadRequest, QueueFull):
            self.outbox.drop(parcel)
            self.streams.pop(key, None)
            raise

    def _ended(self, generation):
        generation.on_end()
        self.metrics.ended(generation)

    def _failed(self, error):
        pb_utils.Logger.log_error(f"{self.name}: a step failed: {error}")


class _Mail:
    """How one request's responses are made and sent."""

    def __init__(self, sender, context, wanted):
        self._sender, self._context, self._wanted = sender, context, wanted

    def __call__(self, parcel, tokens, reason):
        values = {
            "output_ids": np.array([[tokens]], np.int32),
            "sequence_length": np.array([[len(tokens)]], np.int32),
            "num_input_tokens": np.array([[parcel.generation.prompt_length]], np.int32),
            "num_output_tokens": np.array([[parcel.sent]], np.int32),
            "stream_context": self._context,
            "finish_reason": np.array([[reason.encode()]], object) if reason else None,
        }
        # Not one more than were requested: `send` drops the others without Python's lock (stub of 2.51), and corrupts
        # the memory of the threads that run meanwhile.
        tensors = [
            pb_utils.Tensor(name, value) for name, value in values.items() if value is not None and name in self._wanted
        ]
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if reason else 0)


def _refuse(sender, message, code):
    error = pb_utils.TritonError(message, code)
    sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)


def _input(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _flag(request, name):
    value = _input(request, name)
    return value is not None and bool(value.flat[0])


def _settings(request):
    """Read the settings that the request gives; raise BadRequest on one out of range."""
    found = {ours: _input(request, theirs) for theirs, ours in SETTINGS.items()}
    given = {name: value.flat[0].item() for name, value in found.items() if value is not None}
    end_id = _input(request, "end_id")
    if end_id is not None:
        # TensorRT-LLM: a negative end_id is none.
        given["end_ids"] = tuple(end_id[end_id >= 0].tolist())
    words = _input(request, "stop_words_list")
    if words is not None:
        given["stop_ids"] = _stop_ids(words.reshape(2, -1).tolist())
    return Settings(**given)


def _stop_ids(words):
    """Split TensorRT-LLM's flat form: the ids of all words in a row, and where each word ends, padded with -1."""
    ids, ends = words
    ends = [end for end in ends if end > 0]
    return tuple(tuple(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False))
