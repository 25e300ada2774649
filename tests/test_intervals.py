"""Bounds against their definitions, against published tables, and against samples that are drawn."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.judging import intervals


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.001, 0.999))
def test_the_binomial_distribution_is_its_definition(n, k, p):
    exact = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(min(k, n) + 1))
    assert intervals.binomial_cdf(k, n, p) == pytest.approx(exact, abs=1e-12)


def test_the_binomial_distribution_holds_for_large_n():
    # Against the normal distribution with continuity correction, good to about 1 / sqrt(n) in the tails.
    n, p = 1_000_000, 0.95
    sd = math.sqrt(n * p * (1 - p))
    for z in (-3, -1.5, 0, 1.5, 3):
        k = round(n * p + z * sd)
        normal = 0.5 * math.erfc(-((k + 0.5 - n * p) / sd) / math.sqrt(2))
        assert intervals.binomial_cdf(k, n, p) == pytest.approx(normal, abs=2e-3)


@pytest.mark.parametrize(
    ("n", "p", "lower", "upper"),
    [
        # Ranks of the median at one-sided 5%: the tables of the sign test (5 of 10: 2 and 9; 20: 6 and 15).
        (10, 0.5, 2, 9),
        (20, 0.5, 6, 15),
        (4, 0.5, None, None),
        (5, 0.5, 1, 5),
        (58, 0.95, 52, None),
        (59, 0.95, 53, 59),
    ],
)
def test_ranks_that_bound_a_percentile(n, p, lower, upper):
    assert (intervals.lower_rank(n, p, 0.05), intervals.upper_rank(n, p, 0.05)) == (lower, upper)


@settings(deadline=None)
@given(st.integers(1, 2000), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.floats(0.001, 0.3))
def test_ranks_are_the_tightest_that_keep_alpha(n, p, alpha):
    upper, lower = intervals.upper_rank(n, p, alpha), intervals.lower_rank(n, p, alpha)
    if upper is not None:
        assert 1 - intervals.binomial_cdf(upper - 1, n, p) <= alpha
        assert upper == 1 or 1 - intervals.binomial_cdf(upper - 2, n, p) > alpha
    if lower is not None:
        assert intervals.binomial_cdf(lower - 1, n, p) <= alpha + 1e-12
        assert intervals.binomial_cdf(lower, n, p) > alpha - 1e-12


@pytest.mark.parametrize(("p", "alpha", "needed"), [(0.95, 0.05, 59), (0.99, 0.05, 299), (0.5, 0.5, 1)])
def test_samples_that_a_percentile_needs(p, alpha, needed):
    assert intervals.samples_needed(p, alpha) == needed


@settings(deadline=None)
@given(st.integers(1, 2000), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.floats(0.001, 0.3))
def test_levels_that_bound_a_percentile_of_groups(n, p, alpha):
    def tail(level):  # Hoeffding's bound, from its definition
        other = (1 - level) * math.log((1 - level) / (1 - p)) if level < 1 else 0
        return math.exp(-n * (level * math.log(level / p) + other)) if level > 0 else (1 - p) ** n

    upper, lower = intervals.upper_level(n, p, alpha), intervals.lower_level(n, p, alpha)
    # They exist from the same number on as ranks do, and never lie nearer: groups may be single samples.
    assert (upper is None) == (intervals.upper_rank(n, p, alpha) is None)
    assert (lower is None) == (intervals.lower_rank(n, p, alpha) is None)
    if upper is not None:
        assert tail(upper) == pytest.approx(alpha)
        assert p < upper <= 1
        assert math.ceil(upper * n) >= intervals.upper_rank(n, p, alpha)
    if lower is not None:
        assert tail(lower) == pytest.approx(alpha)
        assert 0 <= lower < p
        assert math.ceil(lower * n) <= intervals.lower_rank(n, p, alpha)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Two-sided 95%: 0 and 10 of 10 solve in closed form, the others are in published tables.
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (5, 10, 0.1871, 0.8129),
        (1, 100, 0.0003, 0.0545),
        (20, 100, 0.1267, 0.2918),
    ],
)
def test_clopper_pearson_bounds(hits, n, low, high):
    assert intervals.clopper_pearson(hits, n, 0.025, 0.025) == pytest.approx((low, high), abs=1e-4)


RUNS, WORST = 400, 34
# P(Bin(400, 0.05) > 34) = 0.0012: more wrong verdicts than that mean that the stated confidence is not kept.


@pytest.mark.parametrize(("percentile", "count"), [(50, 60), (95, 150), (99, 400)])
def test_a_server_at_its_latency_limit_is_rarely_judged_wrong(percentile, count):
    truth = -math.log(1 - percentile / 100) * 30  # the percentile of exponential latencies with mean 30 ms
    assert 1 - intervals.binomial_cdf(WORST, RUNS, 0.05) < 0.002
    outcomes = []
    for seed in range(RUNS):
        draw = random.Random(seed)
        ordered = sorted(draw.expovariate(1 / 30) for _ in range(count))
        low = ordered[intervals.lower_rank(count, percentile / 100, 0.05) - 1]
        high = ordered[intervals.upper_rank(count, percentile / 100, 0.05) - 1]
        outcomes.append("FAIL" if low > truth else "PASS" if high <= truth else "?")
    assert outcomes.count("FAIL") <= WORST
    assert outcomes.count("PASS") <= WORST


@pytest.mark.parametrize(("hits", "n", "effective"), [(3, 100, 100), (0, 50, 50), (7, 7, 7)])
def test_a_share_of_independent_trials_is_clopper_pearsons(hits, n, effective):
    assert intervals.share(hits, n, effective, 0.02, 0.05) == intervals.clopper_pearson(hits, n, 0.02, 0.05)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_share_of_fewer_trials_has_wider_bounds(data):
    n = data.draw(st.integers(1, 300))
    hits, effective = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    low, high = intervals.share(hits, n, effective, 0.05, 0.05)
    all_low, all_high = intervals.clopper_pearson(hits, n, 0.05, 0.05)
    assert low <= all_low + 1e-9
    assert high >= all_high - 1e-9
