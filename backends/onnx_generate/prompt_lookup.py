"""Prompt lookup: drafts of an answer's next tokens, from what followed the same few tokens before. Pure.

Texts that are summed up, quoted, corrected or translated, code that is changed, and answers that turn in circles repeat
what is there already (Saxena 2023, "Prompt Lookup Decoding"). A draft costs nothing; to verify it costs about twice a
step, whatever comes of it, so it is made only while that pays.
"""

# Tokens that must be the same as before: with two, more drafts are made than come true.
MATCHED = 3
# A step that verifies takes 1.6 to 1.9 times one that decodes, and must give as many tokens.
PAYS = 1.9
# How much the last draft counts against those before it, what is expected of the first one, and for how many tokens
# none is made where it did not pay.
WEIGHT, AT_FIRST, PAUSE = 0.3, 2.5, 32


class PromptLookup:
    """The drafts, of `count` tokens each, of the answer to `prompt` that grows in the list `output`."""

    def __init__(self, prompt, output, count):
        self._output, self._count, self._prompt_length = output, count, len(prompt)
        self._tokens = []
        self._seen = {}  # the last tokens before a place -> the place
        self._gain, self._pause_ends = AT_FIRST, 0
        self._take(prompt)

    def draft(self):
        """Return `count` tokens that may come next; none where nothing was like it, or where it would not pay."""
        self._take(self._output[len(self._tokens) - self._prompt_length :])
        end, place = len(self._tokens), self._seen.get(tuple(self._tokens[-MATCHED:]))
        if place is None or end < self._pause_ends:
            return []
        draft = []
        for ahead in range(place, place + self._count):
            # What turns in circles is drafted from the draft itself.
            draft.append(self._tokens[ahead] if ahead < end else draft[ahead - end])
        return draft

    def verified(self, tokens):
        """Take note that the last draft gave so many `tokens`, with the one that comes in any case."""
        self._gain += WEIGHT * (tokens - self._gain)
        if self._gain < PAYS:
            self._gain, self._pause_ends = AT_FIRST, len(self._tokens) + PAUSE

    def _take(self, tokens):
        for token in tokens:
            if len(self._tokens) >= MATCHED:
                self._seen[tuple(self._tokens[-MATCHED:])] = len(self._tokens)
            self._tokens.append(token)
