"""The answers of one request, of which a caller may ask several: each a stream of its own."""

import json

from pending_log_probs import PendingLogProbs
from stream import Stream


class Answers:
    """The streams of one request, by their place among its answers.

    `context` is `stream.Stream`'s and may hold "answers", their number. Raises ValueError when it is anything else.
    """

    def __init__(self, context, vocabulary, spelling):
        settings = json.loads(context)
        count = settings.get("answers", 1) if isinstance(settings, dict) else 1
        self.streams = [Stream(context, vocabulary) for _ in range(count)]
        self.log_probs = [PendingLogProbs(spelling) for _ in range(count)]
        # Streamed, each response tells the place of its answer; else there is one with all of them.
        self.is_numbered = count > 1 and settings["stream"]
        self._whole = {} if count > 1 and not settings["stream"] else None
        self._ended = set()

    @property
    def is_over(self):
        """Whether the decoder has ended all of them."""
        return len(self._ended) == len(self.streams)

    def advance(self, place, ids, ended, reason):
        """Return what the caller gets for the new `ids` of the answer at `place`: a list of (place, text, reason).

        `ended` says that the decoder sends no more of it; `reason` is "" until its end.
        """
        if ended:
            self._ended.add(place)
        answer = self.streams[place].answer(ids, reason)
        if answer is None:
            return []
        if self._whole is None:
            return [(place, *answer)]
        self._whole[place] = answer
        if len(self._whole) < len(self.streams):
            return []
        return [(each, *self._whole[each]) for each in range(len(self.streams))]
