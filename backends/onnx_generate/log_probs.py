"""Log probabilities: of the token that was taken, and of those that the model holds most likely."""

import math
from typing import NamedTuple

import numpy as np
from choice import largest


class LogProb(NamedTuple):
    """Natural logarithms of one step's probabilities: of its token, and of the most likely ones, the likeliest first.

    The latter are None where they were not asked for.
    """

    value: float
    top_ids: list | None = None
    top_values: list | None = None


def log_prob(logits, token, top):
    """Return the LogProb of `token` by `logits` FP32 [V], with the `top` most likely ones, None for none of that.

    The logits are the model's own, before temperature, penalties and whatever else is asked for (as vLLM's default).
    """
    most = logits.max()
    norm = float(most) + math.log(np.exp(logits - most).sum(dtype=np.float64))
    value = float(logits[token]) - norm
    if top is None:
        return LogProb(value)
    ids = largest(logits, top) if top else np.array([], np.int64)
    return LogProb(value, ids.tolist(), (logits[ids].astype(np.float64) - norm).tolist())


def log_prob_tensors(log_probs, cumulative):
    """Return the tensors of a response with these LogProbs, one a token, none where there are none.

    `output_log_probs` FP32 [1, 1, n] and `cum_log_probs` FP32 [1, 1], of the answer so far, are TensorRT-LLM's; where
    the most likely tokens were asked for, `top_token_ids` INT32 and `top_log_probs` FP32 are [1, n, k].
    """
    if not log_probs:
        return {}
    tensors = {
        "output_log_probs": np.array([[[each.value for each in log_probs]]], np.float32),
        "cum_log_probs": np.array([[cumulative]], np.float32),
    }
    if log_probs[0].top_ids is not None:
        tensors["top_token_ids"] = np.array([[each.top_ids for each in log_probs]], np.int32)
        tensors["top_log_probs"] = np.array([[each.top_values for each in log_probs]], np.float32)
    return tensors
