"""Quantiles of samples in the order of their intended starts, with bounds of the true one. Pure.

The bounds are those of `loadtests.judging.intervals` for as many independent samples as the series is worth, by the
rule of `loadtests.judging.autocorrelation`: m of n. The bound at rank u of m lies at the level u / m of all n samples.

An upper bound needs k samples, k = `intervals.samples_needed`; at exactly k independent ones it is the largest of
them. Where n reaches k and m does not, the bound lies beyond the samples: k / m times as far above their median as
the largest is. That is a rule and no theorem; tests hold its errors under the stated risk. So a limit far above all
that was seen can be kept however requests depend on each other, and one that is near cannot.
"""

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.judging import intervals
from loadtests.judging.autocorrelation import effective_size, ranks

# Weights add up to 1 but for rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Quantile:
    """The quantile of the samples, and what bounds the true one; None where no bound exists.

    `independent` is how many independent samples, or groups of samples, the bounds stand on.
    """

    value: float
    low: float | None
    high: float | None
    independent: int


def nearest_rank(ordered: Sequence[float], percentile: int) -> float:
    """Return the percentile of at least one sample, in ascending order: the one of rank ceil(p * n)."""
    return ordered[-(-percentile * len(ordered) // 100) - 1]


def of_samples(samples: Sequence[float], percentile: int, alpha_low: float, alpha_high: float) -> Quantile:
    """Return a percentile of at least one sample, bounded by order statistics.

    The value is the nearest rank.
    """
    ordered, n, p = sorted(samples), len(samples), percentile / 100
    value = nearest_rank(ordered, percentile)
    m = effective_size(ranks(samples), [sample > value for sample in samples])
    lower, upper = intervals.lower_rank(m, p, alpha_low), intervals.upper_rank(m, p, alpha_high)
    if upper is None:
        high = _beyond(ordered[-1], ordered[(n - 1) // 2], n, m, intervals.samples_needed(p, alpha_high))
    else:
        high = ordered[-(-upper * n // m) - 1]
    return Quantile(value, None if lower is None else ordered[(lower - 1) * n // m], high, m)


class Groups:
    """At least one group of samples, each of at least one, however these depend on each other.

    Every group weighs the same: a sample of a group of m weighs 1 / m. How groups depend on each other is read from
    the mean rank of each, and from its share above the quantile.
    """

    def __init__(self, groups: Sequence[Sequence[float]]):
        """Sort and rank once what every percentile needs."""
        self._groups = groups
        weighted = sorted((sample, 1 / (len(groups) * len(group))) for group in groups for sample in group)
        self._ordered = [sample for sample, _ in weighted]
        self._reached = list(itertools.accumulate(weight for _, weight in weighted))
        ranked = iter(ranks([sample for group in groups for sample in group]))
        self._mean_ranks = [sum(next(ranked) for _ in group) / len(group) for group in groups]

    def quantile(self, percentile: int, alpha_low: float, alpha_high: float) -> Quantile:
        """Return a percentile: the least sample that, with all below it, has p of the weight.

        The bounds are the samples at `intervals.upper_level` and `lower_level`.
        """
        n, p = len(self._groups), percentile / 100
        value = self._at(p)
        above = [sum(sample > value for sample in group) / len(group) for group in self._groups]
        m = effective_size(self._mean_ranks, above)
        lower, upper = intervals.lower_level(m, p, alpha_low), intervals.upper_level(m, p, alpha_high)
        if upper is None:
            high = _beyond(self._ordered[-1], self._at(0.5), n, m, intervals.samples_needed(p, alpha_high))
        else:
            high = self._at(upper)
        return Quantile(value, None if lower is None else self._at(lower), high, m)

    def _at(self, level: float) -> float:
        return self._ordered[min(bisect_left(self._reached, level - ROUNDING), len(self._ordered) - 1)]


def _beyond(largest: float, median: float, n: int, m: int, needed: int) -> float | None:
    """The upper bound that m of n samples give where `needed` are needed; the module's docstring has the rule."""
    if n < needed:
        return None
    # Without the first case a run in which most requests failed would come to infinity less infinity.
    return largest if largest == median else median + (largest - median) * needed / m
