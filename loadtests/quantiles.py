"""Quantiles of samples, with bounds of the true one. Pure; the bounds are those of `loadtests.intervals`."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests import intervals

# Weights add up to 1 but for rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Quantile:
    """The quantile of the samples, and what bounds the true one; None where no bound exists."""

    value: float
    low: float | None
    high: float | None


def of_independent(samples: Sequence[float], percentile: int, alpha_low: float, alpha_high: float) -> Quantile:
    """Return a percentile of at least one independent sample, bounded by order statistics.

    The value is the nearest rank, ceil(p * n).
    """
    ordered, n, p = sorted(samples), len(samples), percentile / 100
    lower, upper = intervals.lower_rank(n, p, alpha_low), intervals.upper_rank(n, p, alpha_high)
    return Quantile(
        ordered[-(-percentile * n // 100) - 1],
        None if lower is None else ordered[lower - 1],
        None if upper is None else ordered[upper - 1],
    )


def of_groups(groups: Sequence[Sequence[float]], percentile: int, alpha_low: float, alpha_high: float) -> Quantile:
    """Return a percentile over at least one independent group, each of at least one sample, dependent or not.

    Every group weighs the same: a sample of a group of m weighs 1 / m. The value is the least sample that, with
    all below it, has p of the weight; the bounds are the samples at `intervals.upper_level` and `lower_level`.
    """
    weighted = sorted((sample, 1 / (len(groups) * len(group))) for group in groups for sample in group)
    n, p = len(groups), percentile / 100

    def at(level: float) -> float:
        reached = 0.0
        for sample, weight in weighted:
            reached += weight
            if reached >= level - ROUNDING:
                return sample
        return weighted[-1][0]

    lower, upper = intervals.lower_level(n, p, alpha_low), intervals.upper_level(n, p, alpha_high)
    return Quantile(at(p), None if lower is None else at(lower), None if upper is None else at(upper))
