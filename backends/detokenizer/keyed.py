"""Streams of a decoder that cannot echo a context: opened before the decoder starts, and found by the request's id.

Pure: whoever calls has Triton, and stops the decoder.
"""

import json
import time
from collections import OrderedDict

from ending import Ending
from stream import Stream

# A stream that no token came for in this time is given up: the decoder refused the request, or broke off. A request
# may wait long for its first token, and all of the time that its answer takes where it is not streamed.
LOST_S = 1800.0
# Those that wait longest are given up for more than this: far more than one detokenizer feeds.
MOST = 10000


class KeyedStream:
    """The state of one stream, and how its end is found.

    `context` is what the tokenizer step said: JSON {"stream", "stop", "input_tokens", "max_tokens", "end_ids"}. Raises
    ValueError when it is anything else.
    """

    def __init__(self, context, vocabulary):
        self._stream = Stream(context, vocabulary)
        settings = json.loads(context)
        if not {"max_tokens", "end_ids"} <= settings.keys():
            raise ValueError("it is not an object with max_tokens and end_ids")
        self._ending = Ending(settings["max_tokens"], settings["end_ids"])
        # Then the engine was told not to stream, and sends one response.
        self._comes_whole = not (settings["stream"] or settings["stop"])
        self.ended = self.needs_stop = False

    @property
    def counts(self):
        """How many tokens the prompt has, and how many of the answer came so far."""
        return self._stream.input_tokens, self._stream.output_tokens

    def answer(self, ids, is_last, is_cancelled):
        """Return what the caller gets for the newly sent `ids`: (text, finish reason or ""), or None for nothing.

        `is_last` says that the engine itself calls them the last. `is_cancelled()` is asked now and then. Afterwards
        `ended` is true where the decoder has sent its last, and `needs_stop` where it must be told, this once, that
        nobody needs more.
        """
        asks = self._stream.asks(ids)
        ids, reason = self._ending.read(ids, is_last or self._comes_whole)
        self.ended = bool(reason)
        if not reason and asks and is_cancelled():
            reason = "cancelled"
        answer = self._stream.answer(ids, reason)
        self.needs_stop = answer is not None and self._stream.done and not self.ended
        return answer


class KeyedStreams:
    """The open streams by request id, those that waited longest for a token first.

    `end_ids` are the checkpoint's. `clock` gives seconds, for tests.
    """

    def __init__(self, vocabulary, end_ids, clock=time.monotonic):
        self._vocabulary, self._end_ids, self._clock = vocabulary, end_ids, clock
        self._open = OrderedDict()  # request id -> (stream, when it last moved)

    def __len__(self):
        return len(self._open)

    def open(self, key, context):
        """Open the stream of the request id `key`.

        Raises ValueError: there is no id, a stream of that id runs, or the tokenizer did not make `context`.
        """
        self._drop_lost()
        if not key:
            raise ValueError("a stream is opened by its request id, and there is none; send one that is unique")
        if key in self._open:
            raise ValueError(f"the request id {_quoted(key)} is that of a request which still runs; give each its own")
        try:
            stream = KeyedStream(context, self._vocabulary)
        except ValueError as error:
            raise ValueError(f"stream_context is not what the tokenizer step makes: {error}") from None
        self._open[key] = stream, self._clock()

    def find(self, key):
        """Return the stream of the request id `key`, which has moved; None where it was given up."""
        stream, _ = self._open.pop(key, (None, 0))
        if stream:
            self._open[key] = stream, self._clock()
        return stream

    def close(self, key):
        """Forget a stream, so that its id may be used again."""
        del self._open[key]

    def whole(self, ids):
        """Return (text, finish reason, number of tokens) of an answer that came at once, for which none was opened.

        Its limit is not known, nor an end of the caller's own: the reason is "" where no end of the checkpoint's is
        seen.
        """
        shown, reason = Ending(len(ids) + 1, self._end_ids).read(ids, is_last=False)
        return self._vocabulary.decode([id for id in shown if id >= 0]), reason, len(shown)

    def _drop_lost(self):
        while self._open:
            key, (_, moved) = next(iter(self._open.items()))
            if len(self._open) < MOST and self._clock() - moved < LOST_S:
                return
            del self._open[key]


def _quoted(key):
    """Return a caller's id as a message shows it, which is not sent back as a megabyte."""
    return f"'{key[:64]}...'" if len(key) > 64 else f"'{key}'"
