"""One stream between its first token and its finish reason."""

import json

from incremental import IncrementalDecoder
from stop import StopStrings

# Asking whether a request was cancelled is a round trip to the server: every so many tokens is enough.
ASK_EVERY = 2


class Stream:
    """The state of one stream.

    `context` is what the tokenizer step minted: JSON {"id", "stream", "stop", "input_tokens"}.
    `input_tokens` and `output_tokens` count the prompt's and those that came so far.

    Raises ValueError when `context` is anything else.
    """

    def __init__(self, context, vocabulary):
        settings = json.loads(context)
        if not isinstance(settings, dict) or not {"stream", "stop", "input_tokens"} <= settings.keys():
            raise ValueError("it is not an object with stream, stop and input_tokens")
        self.done = False
        self.input_tokens, self.output_tokens = settings["input_tokens"], 0
        self._streaming = settings["stream"]
        self._decoder = IncrementalDecoder(vocabulary)
        self._stops = StopStrings(settings["stop"])
        self._text = ""
        self._is_open = False
        self._unasked = 0

    def asks(self, ids):
        """Tell whether to ask now if the caller has gone; called once for each response of the engine.

        True for a heartbeat, which has no `ids`, and for every second token.
        """
        self._unasked += len(ids)
        if self.done or (ids and self._unasked < ASK_EVERY):
            return False
        self._unasked = 0
        return True

    def answer(self, ids, reason):
        """Return what the caller gets now: (new text, finish reason or ""), or None for nothing.

        `reason` is "" until the end. A stop string ends the stream as well; after the end there is nothing more.
        A heartbeat before the first text opens the stream with an empty one: until something is written tritonserver
        does not notice that an HTTP caller has left.
        """
        if self.done:
            return None
        self.output_tokens += len(ids)
        self._text += self._stops.push(self._decoder.push(ids))
        if reason and not self._stops.found:
            self._text += self._stops.push(self._decoder.flush())
        if self._stops.found:
            reason = "stop"
        elif reason:
            self._text += self._stops.flush()
        self.done = bool(reason)
        is_opening = not ids and not self._is_open
        if not reason and not (self._streaming and (self._text or is_opening)):
            return None
        self._is_open = True
        text, self._text = self._text, ""
        return text, reason
