"""Log probabilities on their way to the caller: what came with tokens goes out with the text of these tokens."""

import json

import numpy as np

# What OpenAI's API writes for a probability of 0, which JSON has no logarithm of.
LEAST = -9999.0


class PendingLogProbs:
    """The log probabilities of one answer that have not been sent. `spelling` is a `spelling.Spelling`."""

    def __init__(self, spelling):
        self._spelling = spelling
        self._values, self._cumulative, self._content = [], 0.0, None

    def add(self, ids, values, cumulative, top_ids=None, top_values=None):
        """Take in those of the new tokens `ids`: a number each, and the likeliest [n, k] where they were asked for.

        `cumulative` is the sum over the answer so far.
        """
        self._values += values
        self._cumulative = cumulative
        if top_ids is None:
            return
        self._content = self._content or []
        for id, value, *likeliest in zip(ids, values, top_ids, top_values, strict=True):
            others = [self._entry(*each) for each in zip(*likeliest, strict=True)]
            self._content.append(self._entry(id, value) | {"top_logprobs": others})

    def take(self):
        """Return (values, their sum so far, JSON) of what is to be sent, None where there is none; keep nothing.

        The JSON is the list `choices[].logprobs.content` of OpenAI's API, None where the likeliest were not asked for.
        """
        if not self._values:
            return None
        content = None if self._content is None else json.dumps(self._content).encode()
        taken = self._values, self._cumulative, content
        self._values, self._content = [], None
        return taken

    def _entry(self, id, value):
        return {**self._spelling.of(id), "logprob": max(round(value, 6), LEAST)}


def tensors(taken):
    """Return the tensors of what was taken of each answer of a response, none where there is none.

    `output_log_probs` FP32 [1, m, n], padded with 0, and `cum_log_probs` FP32 [1, m] are TensorRT-LLM's; `logprobs` is
    BYTES [1, m].
    """
    if not any(taken):
        return {}
    rows = [each or ([], 0.0, b"[]") for each in taken]
    longest = max(len(values) for values, _, _ in rows)
    found = {
        "output_log_probs": np.array([[values + [0.0] * (longest - len(values)) for values, _, _ in rows]], np.float32),
        "cum_log_probs": np.array([[cumulative for _, cumulative, _ in rows]], np.float32),
    }
    if all(content is not None for _, _, content in rows):
        found["logprobs"] = np.array([[content for _, _, content in rows]], object)
    return found
