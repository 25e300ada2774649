"""Quantiles of a Prometheus histogram, by Prometheus' own rule. Pure.

A histogram tells only how many of n observations were at most each of its bounds. The p-quantile lies in the first
bucket (low, high] up to which at least p n were counted, and that is all that is known. Prometheus' histogram_quantile
takes the observations of a bucket as evenly spread over it, the first bucket as beginning at 0:

    value = low + (high - low) (p n - below) / inside

with `below` observations before the bucket and `inside` it. Of the last bucket, which has no upper bound, it is `low`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantile:
    """An estimated quantile, and the bounds of the bucket that holds the exact one; `high` can be infinite."""

    value: float
    low: float
    high: float


def quantile(buckets: Sequence[tuple[float, float]], percentile: int) -> Quantile | None:
    """Return a percentile of ascending `buckets`, (upper bound, observations up to it), the last bound infinite.

    The first bound is above 0, as a latency's is. None where nothing was observed, or no bucket has a bound.
    """
    if len(buckets) < 2 or not buckets[-1][1]:
        return None
    rank = percentile * buckets[-1][1] / 100
    for (low, below), (high, up_to) in itertools.pairwise([(0.0, 0.0), *buckets]):
        if up_to >= rank and up_to > below:
            value = low if math.isinf(high) else low + (high - low) * (rank - below) / (up_to - below)
            return Quantile(value, low, high)
    return None
