"""One stream between its first token and its finish reason."""

import json

from incremental import IncrementalDecoder
from stop import StopStrings

# Asking whether a request was cancelled is a round trip to the server: every so many responses is enough.
ASK_EVERY = 4


class Stream:
    """The state of one stream. `context` is what the tokenizer step minted: JSON {"id", "stream", "stop"}.

    Raises ValueError when `context` is anything else.
    """

    def __init__(self, context, vocabulary):
        settings = json.loads(context)
        if not isinstance(settings, dict) or not {"stream", "stop"} <= settings.keys():
            raise ValueError("it is not an object with stream and stop")
        self.done = False
        self._streaming = settings["stream"]
        self._decoder = IncrementalDecoder(vocabulary)
        self._stops = StopStrings(settings["stop"])
        self._text = ""
        self._is_open = False
        self._responses = 0

    def asks(self, ids):
        """Tell whether to ask now if the caller has gone; called once for each response of the engine.

        True for a heartbeat, which has no `ids`, and for every fourth response.
        """
        self._responses += 1
        return not self.done and (not ids or self._responses % ASK_EVERY == 0)

    def answer(self, ids, reason):
        """Return what the caller gets now: (new text, finish reason or ""), or None for nothing.

        `reason` is "" until the end. A stop string ends the stream as well; after the end there is nothing more.
        A heartbeat before the first text opens the stream with an empty one: until something is written tritonserver
        does not notice that an HTTP caller has left.
        """
        if self.done:
            return None
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
