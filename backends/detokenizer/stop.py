"""Stop strings in a text that comes in pieces; where the pieces are cut makes no difference."""


class StopStrings:
    """Ends a text before the stop string that is complete first; of those that end together the longest counts.

    The text before it is returned in full, nothing of it or behind it. What may be the beginning of one is held back.
    A piece costs what itself and the stop strings are long, not what came before.
    """

    def __init__(self, stops):
        self.found = False
        self._stops = stops
        self._prefixes = {stop[:length] for stop in stops for length in range(1, len(stop))}
        self._longest_prefix = max(map(len, self._prefixes), default=0)
        self._held = ""

    def push(self, piece):
        """Return the text that `piece` sets free, up to the stop string if that is complete now; then `found` is true.

        Must not be called again after that.
        """
        text = self._held + piece
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self.found = True
            return text[: min(ends)[1]]
        first = max(0, len(text) - self._longest_prefix)
        start = next((start for start in range(first, len(text)) if text[start:] in self._prefixes), len(text))
        self._held = text[start:]
        return text[:start]

    def flush(self):
        """Return the text that was held back; nothing follows."""
        return self._held
