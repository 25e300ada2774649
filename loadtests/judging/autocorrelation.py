"""How many independent samples a series of dependent ones is worth: its effective sample size. Pure.

Requests to one server depend on each other: who comes while a queue is long waits long, and so does the next one.
n such samples say less than n independent ones. The rule:

1. The samples stand in the order in which they were intended, n in all, with autocorrelations rho_1, rho_2, ...
2. They count as independent unless rho_1 + rho_2 + rho_3 > 2 sqrt(3 / n). Of independent samples each rho_k is about
   normal with variance 1 / n (Bartlett 1946), so one series of independent samples in forty is held for dependent.
3. Else the autocorrelation time tau = 1 + 2 (rho_1 + rho_2 + ...) is summed up to where noise takes over: pairs
   rho_2k + rho_2k+1, for as long as they are positive, none above the one before it (the initial monotone sequence of
   Geyer, Practical Markov Chain Monte Carlo, Statistical Science 7, 1992). tau is at least 1.
4. The effective sample size is n / tau, with tau the largest over the series that are given.

For a percentile these are two series, as in Vehtari, Gelman, Simpson, Carpenter and Buerkner, Rank-normalization,
folding, and localization: an improved R-hat, Bayesian Analysis 16, 2021: the samples' ranks, which show dependence
best and which infinite samples do not upset, and the indicator of the samples above the quantile, which shows
clusters that only the tail has. When ranks depend on each other as those of a Gaussian process do, the indicator
depends less: the bounds are then wider than they need to be, and never narrower.

A run of fewer than about 60 requests is too short to show its own dependence.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

# One transform gives all n autocorrelations; numpy comes with tritonclient.
import numpy as np

# Standard errors beyond which dependence is taken to be there.
BAND = 2.0
LAGS = 3


def effective_size(*series: Sequence[float]) -> int:
    """Return the number of independent samples, from 1 to n, that `series` of the same n samples are worth."""
    return max(1, int(len(series[0]) / max(map(autocorrelation_time, series))))


def autocorrelation_time(series: Sequence[float]) -> float:
    """Return how many samples of the finite `series`, in order, say as much as one independent sample: at least 1."""
    values = np.asarray(series, dtype=float)
    n = len(values)
    if n <= LAGS or np.ptp(values) == 0:
        return 1.0
    # Wiener and Khinchin; the zeros that fill it up to 2n keep the end from meeting the beginning.
    power = np.abs(np.fft.rfft(values - values.mean(), 2 * n)) ** 2
    rho = np.fft.irfft(power, 2 * n)[:n]
    rho /= rho[0]
    if rho[1 : LAGS + 1].sum() <= BAND * (LAGS / n) ** 0.5:
        return 1.0
    pairs = rho[0 : n - 1 : 2] + rho[1:n:2]
    negative = np.flatnonzero(pairs <= 0)
    kept = pairs[: negative[0]] if len(negative) else pairs
    return max(1.0, 2.0 * float(np.minimum.accumulate(kept).sum()) - 1.0)


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, equal values sharing their mean rank; infinite ones are the last."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) + 1) / 2 for value in values]
