import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests import intervals
from loadtests.quantiles import Quantile, of_groups, of_independent

samples = st.lists(st.floats(0, 1000), min_size=1, max_size=80)
percentiles = st.sampled_from([50, 90, 95, 99])


@pytest.mark.parametrize(
    ("values", "percentile", "quantile"),
    [
        (range(1, 101), 50, Quantile(50, 42, 59)),
        (range(100, 0, -1), 95, Quantile(95, 91, 99)),
        (range(1, 59), 95, Quantile(56, 52, None)),
        ([7], 50, Quantile(7, None, None)),
        ([*range(1, 60), math.inf], 99, Quantile(math.inf, 58, None)),
    ],
)
def test_a_percentile_of_independent_samples(values, percentile, quantile):
    assert of_independent(list(values), percentile, 0.05, 0.05) == quantile


@pytest.mark.parametrize(
    ("groups", "percentile", "value"),
    [
        ([[1, 2, 3, 4]], 50, 2),
        ([[1, 2, 3, 4], [9]], 50, 4),  # the long group weighs no more than the short one
        ([[1, 2, 3, 4], [9]], 90, 9),
        ([[1] * 100, [9]], 50, 1),
        ([[1], [2], [3]], 99, 3),
        ([[1, 2]] * 8 + [[math.inf]] * 2, 90, math.inf),
        ([[1, 2]] * 9 + [[math.inf]], 90, 2),
    ],
)
def test_a_percentile_of_groups(groups, percentile, value):
    assert of_groups(groups, percentile, 0.05, 0.05).value == value


@settings(deadline=None)
@given(samples, percentiles)
def test_groups_of_one_are_independent_samples_with_wider_bounds(values, percentile):
    single = of_independent(values, percentile, 0.05, 0.05)
    grouped = of_groups([[value] for value in values], percentile, 0.05, 0.05)
    assert grouped.value == single.value
    assert (grouped.low is None, grouped.high is None) == (single.low is None, single.high is None)
    if single.low is not None:
        assert grouped.low <= single.low <= single.value
    if single.high is not None:
        assert grouped.high >= single.high >= single.value


@settings(deadline=None)
@given(st.lists(samples, min_size=1, max_size=70), percentiles, st.randoms(use_true_random=False))
def test_bounds_surround_the_value_and_the_order_does_not_matter(groups, percentile, random_):
    quantile = of_groups(groups, percentile, 0.05, 0.01)
    assert quantile.low is None or quantile.low <= quantile.value
    assert quantile.high is None or quantile.value <= quantile.high
    random_.shuffle(groups)
    assert of_groups([sorted(group) for group in groups], percentile, 0.05, 0.01) == quantile


RUNS, WORST = 400, 34
# P(Bin(400, 0.05) > 34) = 0.0012: more wrong bounds than that mean that the stated confidence is not kept.


TOKENS = 12
SLOW = [1] * 19 + [8]


def alike(draw):
    """All tokens of a request wait alike."""
    return [draw.expovariate(1 / 30)] * TOKENS


def paced(draw):
    """Tokens differ, around the pace of their request: one request of twenty is eight times slower."""
    pace = draw.choice(SLOW)
    return [draw.expovariate(1 / (30 * pace)) for _ in range(TOKENS)]


def apart(draw):
    """Tokens do not depend on each other, and requests differ in length."""
    return [draw.expovariate(1 / 30) for _ in range(draw.randint(1, TOKENS))]


def truth(paces, percentile):
    """The percentile of a token's latency: exponential with mean 30 ms times the pace, by bisection."""
    low, high = 0.0, 10_000.0
    for _ in range(60):
        middle = (low + high) / 2
        within = sum(1 - math.exp(-middle / (30 * pace)) for pace in paces) / len(paces)
        low, high = (middle, high) if within < percentile / 100 else (low, middle)
    return low


CASES = [(alike, [1]), (paced, SLOW), (apart, [1])]


def runs(request, count):
    for seed in range(RUNS):
        draw = random.Random(seed)
        yield [request(draw) for _ in range(count)]


@pytest.mark.parametrize(("percentile", "count"), [(50, 20), (95, 60)])
@pytest.mark.parametrize(("request_of", "paces"), CASES)
def test_bounds_of_dependent_tokens_are_rarely_wrong(request_of, paces, percentile, count):
    assert 1 - intervals.binomial_cdf(WORST, RUNS, 0.05) < 0.002
    limit = truth(paces, percentile)
    bounds = [of_groups(groups, percentile, 0.05, 0.05) for groups in runs(request_of, count)]
    assert sum(bound.high < limit for bound in bounds) <= WORST
    assert sum(bound.low > limit for bound in bounds) <= WORST


@pytest.mark.parametrize(("request_of", "paces"), CASES[:2])
def test_bounds_that_take_tokens_for_independent_are_often_wrong(request_of, paces):
    limit = truth(paces, 95)
    pooled = ([token for group in groups for token in group] for groups in runs(request_of, 60))
    bounds = [of_independent(tokens, 95, 0.05, 0.05) for tokens in pooled]
    assert sum(bound.high < limit for bound in bounds) > 2 * WORST


@pytest.mark.parametrize(("request_of", "paces"), CASES[::2])
def test_a_limit_well_off_the_truth_is_told_from_it(request_of, paces):
    limit = truth(paces, 95)
    bounds = [of_groups(groups, 95, 0.05, 0.05) for groups in runs(request_of, 150)]
    assert sum(bound.high <= 2 * limit for bound in bounds) > 0.9 * RUNS
    assert sum(bound.low > limit / 2 for bound in bounds) > 0.9 * RUNS
