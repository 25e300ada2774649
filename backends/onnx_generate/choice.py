"""Draws one token from logits: min_p, top_k, top_p, and the draw itself. Pure: numpy alone.

None of it sorts a vocabulary. Whoever is among the largest few is at least as large as some bound that one pass over
the logits gives, so that only those above the bound are sorted. The logits are overwritten, which spares copies.
"""

import math

import numpy as np

# Maxima that bound the largest from below, one for each column of the logits laid out in so many.
COLUMNS = 512
# Bits of an FP32 that are left out where weights are told apart roughly, within 3%.
ROUGH = 18
# Logits that are summed up at once to find the block that a draw falls into.
BLOCK = 256


def draw(logits, random, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Return a token drawn from `logits` FP32 [V] with `random` in [0, 1), and destroy `logits`.

    As in vLLM: by temperature, then those of at least `min_p` times the largest probability, then the `top_k` largest
    (0: all), then the fewest that hold `top_p` of what is left.
    """
    top, ids, weights = logits.max(), None, logits
    if min_p:
        ids = np.flatnonzero(logits >= top + np.float32(temperature * math.log(min_p)))
        weights = logits[ids]
    if top_k:
        kept = largest(weights, top_k)
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    weights -= top
    weights /= np.float32(temperature)
    np.exp(weights, out=weights)
    if top_p < 1:
        kept = nucleus(weights, top_p)
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    index = _find(weights, random)
    return index if ids is None else int(ids[index])


def largest(values, count):
    """Return the indices of the `count` largest of `values` FP32 [n], largest first, of equals the first one first."""
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    among = values
    if count <= COLUMNS <= len(values):
        rows = len(values) // COLUMNS
        among = values[: rows * COLUMNS].reshape(rows, COLUMNS).max(axis=0)
    ids = np.flatnonzero(values >= np.partition(among, -count)[-count])
    return ids[np.argsort(-values[ids], kind="stable")[:count]]


def nucleus(weights, top_p):
    """Return the indices of the fewest largest `weights` FP32 [n] that sum up to `top_p` of all (Holtzman et al. 2020).

    Those below (1 - top_p) / n of all cannot be needed: together they are less than 1 - top_p. Of the others only those
    are sorted that weigh about as much as the last one needed.
    """
    total = weights.sum(dtype=np.float64)
    ids = np.flatnonzero(weights >= np.float32((1 - top_p) / len(weights) * total))
    some = weights[ids]
    heights = some.view(np.uint32) >> ROUGH  # floats above 0 are in the order of their bits
    above = np.cumsum(np.bincount(heights, some)[::-1])[::-1]
    enough = np.flatnonzero(above >= top_p * total)
    edge = int(enough[-1]) if len(enough) else 0
    last = ids[heights == edge]
    last = last[np.argsort(-weights[last], kind="stable")]
    mass = above[edge + 1] if edge + 1 < len(above) else 0.0
    needed = int(np.searchsorted(mass + np.cumsum(weights[last], dtype=np.float64), top_p * total)) + 1
    return np.concatenate((ids[heights > edge], last[:needed]))


def _find(weights, random):
    """Return the index where the running sum of `weights` passes `random` of the whole: first the block, then in it."""
    starts = np.arange(0, len(weights), BLOCK)
    bounds = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    wanted = random * bounds[-1]
    block = int(np.searchsorted(bounds, wanted, side="right"))
    part = weights[starts[block] : starts[block] + BLOCK]
    sums = np.cumsum(part, dtype=np.float64)
    # Counted from the block's end, which lies behind what is wanted however sums are rounded; its start may not.
    rest = max(0.0, sums[-1] - (bounds[block] - wanted))
    return int(starts[block] + np.searchsorted(sums, rest, side="right"))
