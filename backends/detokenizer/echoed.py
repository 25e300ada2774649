"""Streams of a decoder that echoes, with all that it sends, the context which the tokenizer step minted."""

import numpy as np
import triton_python_backend_utils as pb_utils
import wire
from stream import Stream


class EchoedStreams:
    """The open streams by their context; the decoder says with `finish_reason` when one has ended.

    `name` and `decoder` are models, `on_count` is told how many streams are open.
    """

    def __init__(self, name, decoder, vocabulary, on_count):
        self._name, self._decoder, self._vocabulary = name, decoder, vocabulary
        self._on_count = on_count
        self._streams = {}

    def advance(self, request, sender):
        """Answer one response of the decoder."""
        context = wire.read(request, "stream_context").item()
        try:
            stream = self._streams.get(context) or self._open(context)
        except ValueError as error:
            words = f"{self._name}: stream_context is not what the tokenizer step mints: {error}"
            wire.refuse(sender, words, pb_utils.TritonError.INVALID_ARG)
            return
        ids, ended = wire.read(request, "output_ids").reshape(-1).tolist(), _finish_reason(request)
        cancelled = stream.asks(ids) and request.is_cancelled()
        answer = stream.answer(ids, ended or ("cancelled" if cancelled else ""))
        wire.send(sender, answer, stream.input_tokens, stream.output_tokens)
        if ended:
            self._close(context)
        elif answer and stream.done:
            self._stop(context)

    def _open(self, context):
        stream = self._streams[context] = Stream(context, self._vocabulary)
        self._on_count(len(self._streams))
        return stream

    def _close(self, context):
        del self._streams[context]
        self._on_count(len(self._streams))

    def _stop(self, context):
        inputs = [
            pb_utils.Tensor("stop", np.array([[True]])),
            pb_utils.Tensor("stream_context", np.array([[context]], object)),
        ]
        wire.stop(self._name, self._decoder, requested_output_names=[], inputs=inputs)


def _finish_reason(request):
    """Return the decoder's finish reason, "" until it has one: Triton leaves an unwritten tensor out."""
    reason = wire.read(request, "finish_reason")
    return reason.item().decode() if reason is not None else ""
