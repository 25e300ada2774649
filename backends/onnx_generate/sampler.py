"""The next token of each running request, from its logits."""

import numpy as np

# Candidates that are looked at first when only top_p limits them: nearly always enough, and no full sort.
HEAD = 1024


class Sampler:
    """One request's choice of tokens: its settings, its random numbers, and what it has seen so far."""

    def __init__(self, settings, prompt, end_ids, vocabulary):
        self.settings, self.end_ids = settings, frozenset(end_ids)
        self._random = None if settings.is_greedy else np.random.default_rng(settings.seed)
        self._drawn = 0
        if settings.has_penalties:
            self._counts = np.zeros(vocabulary, np.int32)
            self._seen = np.zeros(vocabulary, bool)
            self._seen[prompt] = True

    @property
    def is_plain(self):
        """Whether the token is the largest logit and nothing else; `accept` may then be left out."""
        return self._random is None and not self.settings.has_penalties and not self.settings.min_tokens

    def next(self, logits):
        """Choose a token from `logits` FP32 [V], which are changed in place."""
        settings = self.settings
        if settings.has_penalties:
            self._penalise(logits)
        if self._drawn < settings.min_tokens:
            logits[list(self.end_ids)] = -np.inf
        token = int(logits.argmax()) if self._random is None else self._draw(logits)
        self._drawn += 1
        if settings.has_penalties:
            self._counts[token] += 1
            self._seen[token] = True
        return token

    def _penalise(self, logits):
        """Repetition as Keskar et al. 2019 (CTRL, section 4.1); presence and frequency as OpenAI's API states them."""
        settings = self.settings
        seen = logits[self._seen]
        logits[self._seen] = np.where(seen > 0, seen / settings.repetition_penalty, seen * settings.repetition_penalty)
        logits -= settings.frequency_penalty * self._counts + settings.presence_penalty * (self._counts > 0)

    def _draw(self, logits):
        """Draw by temperature, then among the top_k, then among the smallest set that holds top_p of the mass."""
        settings = self.settings
        scaled = (logits - logits.max()) / np.float32(1.0 if settings.temperature is None else settings.temperature)
        ids = None
        if settings.top_k:
            ids = _largest(scaled, settings.top_k)
            scaled = scaled[ids]
        weights = np.exp(scaled)
        if settings.top_p is not None and settings.top_p < 1:
            kept = _nucleus(weights, settings.top_p)
            ids, weights = kept if ids is None else ids[kept], weights[kept]
        bounds = np.cumsum(weights, dtype=np.float64)
        index = int(np.searchsorted(bounds, self._random.random() * bounds[-1], side="right"))
        return int(index if ids is None else ids[index])


def _largest(values, count):
    """Return the indices of the `count` largest values, largest first."""
    if count < len(values):
        part = np.argpartition(values, -count)[-count:]
        return part[np.argsort(-values[part], kind="stable")]
    return np.argsort(-values, kind="stable")


def _nucleus(weights, top_p):
    """Return the indices of the fewest largest weights that sum up to `top_p` of all (Holtzman et al. 2020)."""
    wanted = top_p * weights.sum(dtype=np.float64)
    for count in (HEAD, len(weights)):
        ids = _largest(weights, count)
        bounds = np.cumsum(weights[ids], dtype=np.float64)
        if bounds[-1] >= wanted:
            break
    return ids[: int(np.searchsorted(bounds, wanted)) + 1]
