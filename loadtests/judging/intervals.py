"""Distribution-free confidence bounds, in closed binomial form. Pure, `math` only.

Each bound is one-sided: `alpha` is the probability, at most, that the truth lies beyond it. Two of them make
an interval. All assume independent samples, or independent groups of samples; how many of these a series of dependent
ones is worth is `loadtests.judging.autocorrelation`'s.
"""

import math
from collections.abc import Callable


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(X <= k) for X ~ Bin(n, p).

    Sums the tail that is shorter in value, from its largest term down by the ratio of neighbouring terms, and
    stops where terms no longer count: about sqrt(n) steps.
    """
    if k < 0 or k >= n:
        return float(k >= n)
    if p <= 0 or p >= 1:
        return float(p <= 0)
    if k + 1 > n * p:
        # P(X > k) = P(n - X <= n - k - 1), and n - X ~ Bin(n, 1 - p).
        return 1.0 - _lower_tail(n - k - 1, n, 1.0 - p, p)
    return _lower_tail(k, n, p, 1.0 - p)


def _lower_tail(k: int, n: int, p: float, q: float) -> float:
    """P(X <= k) by summing from term k downwards; `q` is 1 - p, given apart to keep its small digits."""
    log_term = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    term = math.exp(log_term + k * math.log(p) + (n - k) * math.log(q))
    total = 0.0
    while term > total * 1e-17:
        total += term
        term *= k / (n - k + 1) * (q / p)
        k -= 1
    return min(total, 1.0)


def upper_rank(n: int, p: float, alpha: float) -> int | None:
    """Return the smallest rank u whose order statistic X(u) of `n` samples bounds the p-quantile from above.

    The number of samples below the p-quantile is Bin(n, p), so P(X(u) < quantile) = P(Bin(n, p) >= u), which
    must be at most `alpha` (David and Nagaraja, Order Statistics, 3rd ed. 2003, section 7.1). None: even the
    largest sample does not bound it, because p**n > alpha.
    """
    if 1.0 - binomial_cdf(n - 1, n, p) > alpha:
        return None
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        if 1.0 - binomial_cdf(middle - 1, n, p) <= alpha:
            high = middle
        else:
            low = middle
    return high


def lower_rank(n: int, p: float, alpha: float) -> int | None:
    """Return the largest rank l whose order statistic X(l) bounds the p-quantile from below.

    P(X(l) > quantile) = P(Bin(n, p) <= l - 1), at most `alpha`: `upper_rank` seen from the other end.
    """
    rank = upper_rank(n, 1.0 - p, alpha)
    return None if rank is None else n + 1 - rank


def samples_needed(p: float, alpha: float) -> int:
    """Return the smallest n for which `upper_rank` exists: p**n <= alpha, n = ceil(log(alpha) / log(p))."""
    n = math.ceil(math.log(alpha) / math.log(p))
    # The quotient may be rounded across a whole number.
    while upper_rank(n, p, alpha) is None:
        n += 1
    return n


def upper_level(n: int, p: float, alpha: float) -> float | None:
    """Return the level c above p at which the sample quantile of `n` groups bounds the p-quantile from above.

    Like `upper_rank`, where each of `n` independent groups holds samples that may depend on each other. Let F(x)
    be the mean over the groups of each one's fraction of samples at most x. It is a mean of independent values in
    [0, 1], so below the p-quantile, where its expectation is at most p, P(F(x) >= c) <= exp(-n KL(c || p))
    (Hoeffding 1963, theorem 1), which is `alpha` here. None as in `upper_rank`: p**n > alpha.
    """
    if p**n > alpha:
        return None
    return _solve(lambda c: c > p and n * _divergence(c, p) >= -math.log(alpha))


def lower_level(n: int, p: float, alpha: float) -> float | None:
    """Return the level c below p at which the sample quantile bounds the p-quantile from below.

    P(F(x) <= c) where F's expectation is at least p: `upper_level` seen from the other end.
    """
    level = upper_level(n, 1.0 - p, alpha)
    return None if level is None else 1.0 - level


def _divergence(c: float, p: float) -> float:
    """KL(c || p) of two Bernoulli distributions, in nats."""
    rest = (1.0 - c) * math.log((1.0 - c) / (1.0 - p)) if c < 1 else 0.0
    return c * math.log(c / p) + rest


def clopper_pearson(hits: int, n: int, alpha_low: float, alpha_high: float) -> tuple[float, float]:
    """Return bounds of a probability of which `hits` of `n` independent trials were seen.

    Clopper and Pearson 1934, exact: the lower bound p solves P(Bin(n, p) >= hits) = alpha_low, the upper one
    P(Bin(n, p) <= hits) = alpha_high; 0 and 1 where hits is 0 and n.
    """
    return _least(hits, n, alpha_low), _most(hits, n, alpha_high)


def _least(hits: int, n: int, alpha: float) -> float:
    return 0.0 if hits == 0 else _solve(lambda p: 1.0 - binomial_cdf(hits - 1, n, p) >= alpha)


def _most(hits: int, n: int, alpha: float) -> float:
    return 1.0 if hits == n else _solve(lambda p: binomial_cdf(hits, n, p) <= alpha)


def share(hits: int, n: int, effective: int, alpha_low: float, alpha_high: float) -> tuple[float, float]:
    """Return bounds of a probability of which `hits` of `n` trials were seen, worth `effective` independent ones.

    `clopper_pearson` of the effective number of trials (Korn and Graubard, Survey Methodology 24, 1998), where the hits
    that are not whole are rounded away from each bound, so that it errs no more often.
    """
    fewest, most = hits * effective // n, -(-hits * effective // n)
    return _least(fewest, effective, alpha_low), _most(most, effective, alpha_high)


def _solve(holds: Callable[[float], bool]) -> float:
    """The smallest p in [0, 1] for which `holds`, which is false below and true above."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
