"""Streams of a decoder that echoes, with all that it sends, the context which the tokenizer step minted."""

import numpy as np
import pending_log_probs
import triton_python_backend_utils as pb_utils
import wire
from answers import Answers
from spelling import Spelling

# It begins with Triton's own words for a request that waited in a model's queue for longer than its timeout.
EXPIRED = "Request timeout expired before the first token; try again later, or allow more"


class EchoedStreams:
    """The open requests by their context; the decoder says with `finish_reason` when an answer has ended.

    A request whose time was over before its first token is refused: there is no answer.
    `sequence_index` says which of several answers a response is of. `name` and `decoder` are models, `on_count` is told
    how many requests are open.
    """

    def __init__(self, name, decoder, vocabulary, on_count):
        self._name, self._decoder, self._vocabulary = name, decoder, vocabulary
        self._spelling, self._on_count = Spelling(vocabulary), on_count
        self._open = {}

    def advance(self, request, sender):
        """Answer one response of the decoder."""
        context = wire.read(request, "stream_context").item()
        try:
            answers = self._open.get(context) or self._begin(context)
        except ValueError as error:
            words = f"{self._name}: stream_context is not what the tokenizer step mints: {error}"
            wire.refuse(sender, words, pb_utils.TritonError.INVALID_ARG)
            return
        place = _place(request)
        stream = answers.streams[place]
        ids, ended = wire.read(request, "output_ids").reshape(-1).tolist(), _finish_reason(request)
        cancelled = stream.asks(ids) and request.is_cancelled()
        _add_log_probs(answers.log_probs[place], ids, request)
        was_done = stream.done
        said = answers.advance(place, ids, bool(ended), ended or ("cancelled" if cancelled else ""))
        if answers.is_over and ended == "timeout" and not any(each.output_tokens for each in answers.streams):
            wire.refuse(sender, EXPIRED, pb_utils.TritonError.UNAVAILABLE)
        else:
            self._send(sender, answers, said)
        if answers.is_over:
            self._close(context)
        elif stream.done and not (was_done or ended):
            self._stop(context, None if cancelled or len(answers.streams) == 1 else place)

    def _send(self, sender, answers, said):
        streams = [answers.streams[place] for place, _, _ in said]
        more = pending_log_probs.tensors([answers.log_probs[place].take() for place, _, _ in said])
        if answers.is_numbered and said:
            more["sequence_index"] = np.array([[said[0][0]]], np.int32)
        tokens = streams[0].input_tokens if said else 0, sum(stream.output_tokens for stream in streams)
        wire.send(sender, [(text, reason) for _, text, reason in said], *tokens, more)

    def _begin(self, context):
        answers = self._open[context] = Answers(context, self._vocabulary, self._spelling)
        self._on_count(len(self._open))
        return answers

    def _close(self, context):
        del self._open[context]
        self._on_count(len(self._open))

    def _stop(self, context, place):
        """Stop the answer at `place`, or all of the request."""
        inputs = [
            pb_utils.Tensor("stop", np.array([[True]])),
            pb_utils.Tensor("stream_context", np.array([[context]], object)),
            *([] if place is None else [pb_utils.Tensor("sequence_index", np.array([[place]], np.int32))]),
        ]
        wire.stop(self._name, self._decoder, requested_output_names=[], inputs=inputs)


def _finish_reason(request):
    """Return the decoder's finish reason, "" until it has one: Triton leaves an unwritten tensor out."""
    reason = wire.read(request, "finish_reason")
    return reason.item().decode() if reason is not None else ""


def _place(request):
    """Return which of its request's answers a response is of, from 0; a decoder need not number a single one."""
    index = wire.read(request, "sequence_index")
    return 0 if index is None else index.item()


def _add_log_probs(pending, ids, request):
    values = wire.read(request, "output_log_probs")
    if values is None:
        return
    tops = [wire.read(request, name) for name in ("top_token_ids", "top_log_probs")]
    tops = [] if tops[0] is None else [top[0].tolist() for top in tops]
    pending.add(ids, values.reshape(-1).tolist(), wire.read(request, "cum_log_probs").item(), *tops)
