"""The next token of one request, from its logits: what applies, in which order."""

import numpy as np
from choice import draw
from log_probs import log_prob
from said import FORBIDDEN, BadWords, Penalties


class Sampler:
    """The choice of tokens of a request's answer at `place`: its settings, its random numbers, what it has seen so far.

    The order is vLLM's: bias, penalties, what is forbidden, temperature, min_p, top_k, top_p; but a grammar has the
    last word on what is forbidden. A token costs one random number, so the same seed draws the same from the same
    logits, whoever else is served.
    """

    def __init__(self, settings, prompt, end_ids, place=0, grammar=None):
        self.settings, self.end_ids = settings, frozenset(end_ids)
        self._random = None if settings.is_greedy else np.random.default_rng(_seed(settings.seed, place))
        self._drawn = 0
        self._bias = np.array([*settings.logit_bias], np.int64), np.array([*settings.logit_bias.values()], np.float32)
        self._history = [
            *([Penalties(settings, prompt)] if settings.has_penalties else []),
            *([BadWords(settings.bad_ids, prompt)] if settings.bad_ids else []),
        ]
        self._grammar = grammar
        changed = self._history or settings.logit_bias or settings.min_tokens or grammar
        # Whether the token is the largest logit and nothing else is asked for.
        self.is_plain = self._random is None and not (changed or settings.has_log_probs)
        # Of the latest token, where they are asked for.
        self.log_prob = None

    @property
    def over(self):
        """The finish reason, if the grammar has come to its end; None otherwise."""
        return self._grammar.over if self._grammar else None

    def next(self, logits):
        """Choose a token from `logits` FP32 [V], which are changed in place."""
        settings = self.settings
        given = logits.copy() if settings.has_log_probs else None
        if settings.logit_bias:
            ids, weights = self._bias
            logits[ids] += weights
        for each in self._history:
            each.apply(logits)
        if self._drawn < settings.min_tokens:
            logits[list(self.end_ids)] = FORBIDDEN
        if self._grammar:
            self._grammar.apply(logits)
        token = int(logits.argmax()) if self._random is None else self._draw(logits)
        self._drawn += 1
        for each in self._history:
            each.add(token)
        if self._grammar:
            self._grammar.add(token)
        if given is not None:
            self.log_prob = log_prob(given, token, settings.top_logprobs)
        return token

    def _draw(self, logits):
        settings = self.settings
        return draw(
            logits,
            self._random.random(),
            1.0 if settings.temperature is None else settings.temperature,
            settings.top_k or 0,
            1.0 if settings.top_p is None else settings.top_p,
            settings.min_p or 0.0,
        )


def _seed(seed, place):
    """Return the seed of the answer at `place`: the first one has the request's own, as if it were alone."""
    return seed if seed is None or place == 0 else (seed, place)
