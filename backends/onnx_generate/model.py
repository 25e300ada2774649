"""Triton python-based backend `onnx_generate`: token ids in, token ids out, with continuous batching on ONNX Runtime.

Runs inside Triton from its own folder and imports nothing of the project. It speaks the tensor names of TensorRT-LLM's
own `tensorrt_llm` model and adds `stream_context` (opaque, echoed with every response) and `finish_reason` (in the last
one). The version folder holds the engine: model.onnx, its weights, decoder.json; and tokenizer.json, for guided
decoding alone. Model parameters:

    max_tokens       tokens that a slot holds, prompt and answer together
    slots            requests that run at once
    max_queue_size   requests that may wait for a slot; one more is refused with UNAVAILABLE
    provider         cpu (default), or cuda: the first GPU that the process sees, through onnxruntime-gpu

A request with `stop` set ends the one that has the same `stream_context`. How a request is scheduled is told by its
Triton parameters (`terms.py`).
"""

import json
import os
import threading
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from decoder import Decoder
from engine import Engine, Generation
from grammar import Grammars
from log_probs import log_prob_tensors
from metrics import Metrics
from outbox import Outbox, Parcel
from request import BadRequest, Settings
from scheduler import QueueFull
from terms import read_terms

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# The decoder's input of each setting, as TensorRT-LLM names it.
SETTINGS = {
    "request_output_len": "max_tokens",
    "min_tokens": "min_tokens",
    "temperature": "temperature",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "min_p": "min_p",
    "return_log_probs": "return_log_probs",
    "top_logprobs": "top_logprobs",
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
        self.grammars = Grammars(folder / "tokenizer.json", decoder.vocabulary, decoder.end_ids)
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
        # All at once: to look for each of the many that may be there takes several times as long.
        sent = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        context = sent.get("stream_context")
        key = None if context is None else context.flat[0]
        if _flag(sent, "stop"):
            self._stop(key, sent.get("sequence_index"))
            sender.send(flags=FINAL)
            return
        if key in self.streams:
            raise BadRequest("stream_context is that of a request which still runs; give each its own")
        generations = self._generations(request, sent)
        # Behind another step `is_cancelled` never turns true here.
        abandoned = sender.is_cancelled if key is None else None
        office = _Office(sender, context, set(request.requested_output_names()), len(generations))
        parcels = [Parcel(generation, _flag(sent, "streaming"), _Mail(office), abandoned) for generation in generations]
        for generation, parcel in zip(generations, parcels, strict=True):
            generation.on_progress = lambda _, parcel=parcel: self.outbox.notify(parcel)
            generation.on_end = lambda: self._forget(key, generations)
            self.outbox.add(parcel)
        if key is not None:
            self.streams[key] = generations
        try:
            self.engine.submit(*generations)
        except (BadRequest, QueueFull):
            for parcel in parcels:
                self.outbox.drop(parcel)
            self.streams.pop(key, None)
            raise

    def _generations(self, request, sent):
        ids = sent.get("input_ids")
        prompt, settings = [] if ids is None else ids.ravel().tolist(), _settings(sent)
        terms = read_terms(request.parameters(), request.timeout())
        count = _answers(sent, settings, self.engine.decoder.slots)
        return [
            Generation(prompt, settings, terms=terms, place=place, grammar=self._grammar(settings))
            for place in range(count)
        ]

    def _grammar(self, settings):
        return self.grammars.begin(*settings.guide, settings.end_ids) if settings.guide else None

    def _stop(self, key, index):
        """Cancel the answer at `index` of the request that has the context `key`, all of them where it is None."""
        for generation in self.streams.get(key, []):
            if index is None or generation.place == index.flat[0]:
                self.engine.cancel(generation)

    def _forget(self, key, generations):
        if all(generation.finish_reason for generation in generations):
            self.streams.pop(key, None)

    def _ended(self, generation):
        generation.on_end()
        self.metrics.ended(generation)

    def _failed(self, error):
        pb_utils.Logger.log_error(f"{self.name}: a step failed: {error}")


class _Office:
    """Sends the responses of one request, whose answers all go through one sender."""

    def __init__(self, sender, context, wanted, count):
        self.wanted, self.count = wanted, count
        self._sender, self._left = sender, count
        # The outbox and the engine's thread both send.
        self.lock = threading.Lock()
        # Made once, for all responses.
        is_echoed = context is not None and "stream_context" in wanted
        self._context = [pb_utils.Tensor("stream_context", context)] if is_echoed else []

    def send(self, values, is_last):
        """Send the tensors `values`, all of them `wanted`; `is_last` of its answer. The caller holds the lock."""
        tensors = self._context + [pb_utils.Tensor(name, value) for name, value in values.items()]
        self._left -= is_last
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=0 if self._left else FINAL)


class _Mail:
    """How the responses of one answer are made."""

    def __init__(self, office):
        self._office, self._sent, self._cumulative = office, 0, 0.0

    def __call__(self, parcel, tokens, reason):
        with self._office.lock:
            self._office.send(self._tensors(parcel, tokens, reason), reason is not None)

    def _tensors(self, parcel, tokens, reason):
        generation, end = parcel.generation, self._sent + len(tokens)
        log_probs, self._sent = generation.log_probs[self._sent : end], end
        self._cumulative += sum(each.value for each in log_probs)
        numbers = {
            "output_ids": [tokens],
            "sequence_length": [len(tokens)],
            "num_input_tokens": [generation.prompt_length],
            "num_output_tokens": [end],
            **({"sequence_index": [generation.place]} if self._office.count > 1 else {}),
        }
        more = log_prob_tensors(log_probs, self._cumulative)
        if reason:
            more["finish_reason"] = np.array([[reason.encode()]], object)
        # Not one more than were requested: `send` drops the others without Python's lock (stub of 2.51), and corrupts
        # the memory of the threads that run meanwhile.
        wanted = self._office.wanted
        return {
            **{name: np.array([value], np.int32) for name, value in numbers.items() if name in wanted},
            **{name: value for name, value in more.items() if name in wanted},
        }


def _refuse(sender, message, code):
    error = pb_utils.TritonError(message, code)
    sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)


def _flag(sent, name):
    return name in sent and bool(sent[name].flat[0])


def _answers(sent, settings, most):
    """Return how many answers are asked for; raise BadRequest where they are none, too many, all the same, or beams."""
    beams = sent.get("beam_width")
    if beams is not None and beams.flat[0] != 1:
        raise BadRequest(f"beam_width is {beams.flat[0]}, and beams are not searched; ask for num_return_sequences")
    count = sent.get("num_return_sequences")
    count = 1 if count is None else int(count.flat[0])
    if not 1 <= count <= most:
        raise BadRequest(f"num_return_sequences is {count}; give 1 to {most}, the slots of this model")
    if count > 1 and settings.is_greedy:
        raise BadRequest(f"num_return_sequences is {count}, but the greedy answers are all one; give a temperature")
    return count


def _settings(sent):
    """Read the settings that the request gives; raise BadRequest on one out of range."""
    found = {ours: sent.get(theirs) for theirs, ours in SETTINGS.items()}
    given = {name: value.flat[0].item() for name, value in found.items() if value is not None}
    end_id = sent.get("end_id")
    if end_id is not None:
        # TensorRT-LLM: a negative end_id is none.
        given["end_ids"] = tuple(end_id[end_id >= 0].tolist())
    for theirs, ours in (("stop_words_list", "stop_ids"), ("bad_words_list", "bad_ids")):
        words = sent.get(theirs)
        if words is not None:
            given[ours] = _word_ids(words.reshape(2, -1).tolist())
    kind, guide = (sent.get(f"guided_decoding_{name}") for name in ("guide_type", "guide"))
    if kind is not None or guide is not None:
        given["guide"] = tuple(b"" if value is None else value.flat[0] for value in (kind, guide))
    bias = sent.get("embedding_bias")
    if bias is not None:
        (ids,) = np.nonzero(bias.ravel())
        given["logit_bias"] = dict(zip(ids.tolist(), bias.ravel()[ids].tolist(), strict=True))
    return Settings(**given)


def _word_ids(words):
    """Split TensorRT-LLM's flat form: the ids of all words in a row, and where each word ends, padded with -1."""
    ids, ends = words
    ends = [end for end in ends if end > 0]
    return tuple(tuple(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False))
