"""The text of one answer on its way out: deltas, and where a stop string ends it. Pure.

`stop` is the detokenizer's own file, linked: a backend imports from its own folder alone.
"""

from stop import StopStrings


class Answer:
    """Turns what the LLM API says into what the caller gets.

    The stop strings are looked for here, in the text: the LLM API looks for the tokens it would write them with, does
    not find them where a model wrote others, and has streamed the first of them before the last one comes.
    """

    def __init__(self, streaming, stops):
        self.done = False
        self._streaming = streaming
        self._stops = StopStrings(stops)
        self._text = ""

    def push(self, piece, reason):
        """Return (text, finish reason) for the caller, or None for nothing.

        `piece` is new text, `reason` "" until the LLM API's last. After the end, which a stop string is too, nothing
        comes: `done`.
        """
        if self.done:
            return None
        self._text += self._stops.push(piece)
        if self._stops.found:
            reason = "stop"
        elif reason:
            self._text += self._stops.flush()
        self.done = bool(reason)
        if not (reason or (self._streaming and self._text)):
            return None
        text, self._text = self._text, ""
        return text, reason
