"""What a sequence has said, and what of it makes some tokens less likely, or forbids them."""

import numpy as np

# So far below every logit that it is never taken while another is left, and still a number: a grammar, which comes
# last and leaves nothing but its own tokens, may leave only such ones.
FORBIDDEN = np.float32(-1e30)


class Penalties:
    """Repetition as Keskar et al. 2019 (CTRL, section 4.1), of prompt and answer; presence and frequency as OpenAI's
    API states them, of the answer alone. As in vLLM; TensorRT-LLM counts the prompt for all three.
    """

    def __init__(self, settings, prompt):
        self._settings = settings
        self._ids = np.unique(np.array(prompt, np.int64))
        self._counts = np.zeros(len(self._ids), np.float32)
        self._places = {token: place for place, token in enumerate(self._ids.tolist())}

    def add(self, token):
        """Count a token of the answer."""
        place = self._places.setdefault(token, len(self._ids))
        if place == len(self._ids):
            self._ids, self._counts = np.append(self._ids, token), np.append(self._counts, np.float32(0))
        self._counts[place] += 1

    def apply(self, logits):
        """Lower `logits` FP32 [V] in place."""
        settings, counts = self._settings, self._counts
        seen = logits[self._ids]
        seen = np.where(seen > 0, seen / settings.repetition_penalty, seen * settings.repetition_penalty)
        logits[self._ids] = seen - (settings.frequency_penalty * counts + settings.presence_penalty * (counts > 0))


class BadWords:
    """Token sequences that are never completed, also where the prompt has begun them (as in transformers)."""

    def __init__(self, words, prompt):
        self._single = [word[0] for word in words if len(word) == 1]
        self._longer = [word for word in words if len(word) > 1]
        self._kept = max(map(len, words)) - 1
        self._tail = self._cut(tuple(prompt))

    def add(self, token):
        """Note what was said."""
        self._tail = self._cut((*self._tail, token))

    def apply(self, logits):
        """Forbid in `logits` FP32 [V] what would complete one."""
        logits[self._single] = FORBIDDEN
        for *begun, last in self._longer:
            if self._tail[-len(begun) :] == tuple(begun):
                logits[last] = FORBIDDEN

    def _cut(self, tail):
        return tail[-self._kept :] if self._kept else ()
