"""The detokenizer step behind TensorRT-LLM's engine, inside Triton: `keyed` decides, this speaks with both sides."""

import numpy as np
import triton_python_backend_utils as pb_utils
import wire

# What the engine must be asked for, else it answers with an error (TensorRT-LLM 1.2.1, `model_instance_state.cc`).
ENGINE_OUTPUTS = ["output_ids", "sequence_length"]


class KeyedStep:
    """Takes `stream_context` alone, which opens a stream, or `output_ids` [1, 1, n] and `sequence_length` [1, 1].

    `last_token_time_ns` [1, 1], where the model is given it, is 0 until the engine's last response: an engine that
    makes several tokens a step does not show its end otherwise. Answers that no stream was opened for are those of
    requests without id, which come at once; they bring `num_input_tokens` [1, 1]. `on_count` is told how many
    `streams` are open.
    """

    def __init__(self, name, decoder, streams, on_count):
        self._name, self._decoder, self._streams, self._on_count = name, decoder, streams, on_count

    def advance(self, request, sender):
        """Open a stream, or answer one response of the engine."""
        key = request.request_id()
        context, ids = wire.read(request, "stream_context"), wire.read(request, "output_ids")
        if context is not None and ids is None:
            self._open(key, context.item(), sender)
        elif ids is None:
            words = f"{self._name}: neither stream_context nor output_ids was sent; send one of them"
            wire.refuse(sender, words, pb_utils.TritonError.INVALID_ARG)
        else:
            # Padded with -1 to the longest beam, of which there is one.
            said = ids[0, 0, : wire.read(request, "sequence_length").item()].tolist()
            if key:
                self._feed(key, said, request, sender)
            else:
                text, reason, count = self._streams.whole(said)
                wire.send(sender, [(text, reason)], wire.read(request, "num_input_tokens").item(), count)
        self._on_count(len(self._streams))

    def _open(self, key, context, sender):
        try:
            self._streams.open(key, context)
        except ValueError as error:
            wire.refuse(sender, f"{self._name}: {error}", pb_utils.TritonError.INVALID_ARG)
        else:
            wire.send(sender, [], 0, 0)

    def _feed(self, key, ids, request, sender):
        stream = self._streams.find(key)
        if stream is None:
            words = f"{self._name}: the stream of this request was given up, after long without a token"
            self._stop(key)
            wire.refuse(sender, words, pb_utils.TritonError.UNAVAILABLE)
            return
        ended_at = wire.read(request, "last_token_time_ns")
        answer = stream.answer(ids, ended_at is not None and ended_at.item() != 0, request.is_cancelled)
        if stream.ended:
            # Before the answer goes out: who has the last one may use the id again.
            self._streams.close(key)
        wire.send(sender, [answer] if answer else [], *stream.counts)
        if stream.needs_stop:
            self._stop(key)

    def _stop(self, key):
        """Cancel the request at the engine; of all inputs it reads `stop` alone, but Triton wants the required ones."""
        inputs = [
            pb_utils.Tensor("stop", np.array([[True]])),
            pb_utils.Tensor("input_ids", np.zeros((1, 1), np.int32)),
            pb_utils.Tensor("input_lengths", np.zeros((1, 1), np.int32)),
            pb_utils.Tensor("request_output_len", np.zeros((1, 1), np.int32)),
        ]
        wire.stop(self._name, self._decoder, request_id=key, requested_output_names=ENGINE_OUTPUTS, inputs=inputs)
