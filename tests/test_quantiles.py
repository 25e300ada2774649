"""Quantiles and their bounds, of independent requests and of those that depend on each other."""

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.judging import intervals
from loadtests.judging.quantiles import Groups, Quantile, of_samples


def of_groups(groups, percentile, alpha_low, alpha_high):
    return Groups(groups).quantile(percentile, alpha_low, alpha_high)


samples = st.lists(st.floats(0, 1000), min_size=1, max_size=80)
percentiles = st.sampled_from([50, 90, 95, 99])


@pytest.mark.parametrize(
    ("values", "percentile", "quantile"),
    [
        (range(1, 101), 50, Quantile(50, 42, 59, 100)),
        (range(100, 0, -1), 95, Quantile(95, 91, 99, 100)),
        (range(1, 59), 95, Quantile(56, 52, None, 58)),
        ([7], 50, Quantile(7, None, None, 1)),
        ([*range(1, 60), math.inf], 99, Quantile(math.inf, 58, None, 60)),
        ([20] * 59, 95, Quantile(20, 20, 20, 59)),
    ],
)
def test_a_percentile_of_independent_samples(values, percentile, quantile):
    values = list(values)
    random.Random(0).shuffle(values)
    assert of_samples(values, percentile, 0.05, 0.05) == quantile


def test_samples_that_depend_on_each_other_count_as_fewer():
    # A slow stretch of 20 in 200: as many tell a p95 of independent samples, but it is only one stretch.
    stretch = [20 + random.Random(i).random() for i in range(90)] + [90] * 20 + [20 + i / 99 for i in range(90)]
    mixed = random.Random(1).sample(stretch, len(stretch))
    apart, together = of_samples(mixed, 95, 0.05, 0.05), of_samples(stretch, 95, 0.05, 0.05)
    assert (apart.value, apart.low, apart.high, apart.independent) == (90, 90, 90, 200)
    assert together.value == 90
    assert together.independent < 40
    assert together.low < 22
    # 59 are needed: as many times farther from the median as there are fewer.
    median = sorted(stretch)[99]
    assert together.high == pytest.approx(median + (90 - median) * 59 / together.independent)


def test_beyond_the_samples_a_bound_needs_as_many_as_independent_ones_would():
    drift = [20 + i / 1000 for i in range(59)]
    assert of_samples(drift, 95, 0.05, 0.05).high == pytest.approx(21, abs=1)
    assert of_samples(drift[:58], 95, 0.05, 0.05).high is None
    assert of_groups([[value] * 3 for value in drift], 95, 0.05, 0.05).high == pytest.approx(21, abs=1)
    assert of_groups([[value] * 3 for value in drift[:58]], 95, 0.05, 0.05).high is None
    failed = [20] * 20 + [math.inf] * 40
    assert of_samples(failed, 95, 0.05, 0.05).high == math.inf
    assert of_samples([20] * 40 + [math.inf] * 20, 95, 0.05, 0.05).high == math.inf


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
    single = of_samples(values, percentile, 0.05, 0.05)
    grouped = of_groups([[value] for value in values], percentile, 0.05, 0.05)
    assert grouped.value == single.value
    assert (grouped.low is None, grouped.high is None) == (single.low is None, single.high is None)
    assert grouped.independent == single.independent
    if single.independent < len(values):
        return  # then ranks are rounded away from the value, by up to one independent sample
    if single.low is not None:
        assert grouped.low <= single.low <= single.value
    if single.high is not None:
        assert grouped.high >= single.high >= single.value


@settings(deadline=None)
@given(st.lists(samples, min_size=1, max_size=70), percentiles, st.randoms(use_true_random=False))
def test_bounds_surround_the_value_and_the_order_within_a_group_does_not_matter(groups, percentile, random_):
    quantile = of_groups(groups, percentile, 0.05, 0.01)
    assert quantile.low is None or quantile.low <= quantile.value
    assert quantile.high is None or quantile.value <= quantile.high
    shuffled = [random_.sample(group, len(group)) for group in groups]
    assert of_groups(shuffled, percentile, 0.05, 0.01) == quantile


@settings(deadline=None)
@given(samples, percentiles)
def test_bounds_of_samples_surround_the_value(values, percentile):
    quantile = of_samples(values, percentile, 0.05, 0.01)
    assert quantile.low is None or quantile.low <= quantile.value
    assert quantile.high is None or quantile.value <= quantile.high
    assert 1 <= quantile.independent <= len(values)


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


def wrong(limit, bounds):
    """How many of the upper bounds lie below `limit`, and of the lower ones above."""
    found = [(bound.low, bound.high) for bound in bounds]
    above = sum(low is not None and low > limit for low, _ in found)
    return sum(high is not None and high <= limit for _, high in found), above


def runs(request, count):
    for seed in range(RUNS):
        draw = random.Random(seed)
        yield [request(draw) for _ in range(count)]


@pytest.mark.parametrize(("percentile", "count"), [(50, 20), (95, 60)])
@pytest.mark.parametrize(("request_of", "paces"), CASES)
def test_bounds_of_dependent_tokens_are_rarely_wrong(request_of, paces, percentile, count):
    assert 1 - intervals.binomial_cdf(WORST, RUNS, 0.05) < 0.002
    limit = truth(paces, percentile)
    false_pass, false_fail = wrong(
        limit, (of_groups(groups, percentile, 0.05, 0.05) for groups in runs(request_of, count))
    )
    assert false_pass <= WORST
    assert false_fail <= WORST


@pytest.mark.parametrize(("request_of", "paces"), CASES[:2])
def test_bounds_that_take_tokens_for_independent_are_often_wrong(request_of, paces, monkeypatch):
    monkeypatch.setattr("loadtests.judging.quantiles.effective_size", lambda *series: len(series[0]))
    limit = truth(paces, 95)
    pooled = ([token for group in groups for token in group] for groups in runs(request_of, 60))
    assert wrong(limit, (of_samples(tokens, 95, 0.05, 0.05) for tokens in pooled))[0] > 2 * WORST


@pytest.mark.parametrize(("request_of", "paces"), CASES[::2])
def test_a_limit_well_off_the_truth_is_told_from_it(request_of, paces):
    limit = truth(paces, 95)
    bounds = [of_groups(groups, 95, 0.05, 0.05) for groups in runs(request_of, 150)]
    assert wrong(2 * limit, bounds)[0] > 0.9 * RUNS
    assert wrong(limit / 2, bounds)[1] > 0.9 * RUNS


SERIES, MISTAKES = 200, 20
# P(Bin(200, 0.05) > 20) = 0.0012: more wrong bounds than that mean that the stated risk of 5 % is not kept.


def queued(rho, count, seed):
    """Latencies whose normal scores are AR(1) with coefficient `rho`: each lies above its p-quantile with 1 - p."""
    draw = random.Random(seed)
    score = draw.gauss(0, 1)
    for _ in range(count):
        yield math.exp(score)
        score = rho * score + math.sqrt(1 - rho**2) * draw.gauss(0, 1)


def wrong_bounds(rho, percentile, count):
    """`wrong`, with the limit at the true percentile."""
    limit = math.exp(NormalDist().inv_cdf(percentile / 100))
    series = (list(queued(rho, count, seed)) for seed in range(SERIES))
    return wrong(limit, (of_samples(latencies, percentile, 0.05, 0.05) for latencies in series))


@pytest.mark.parametrize("percentile", [50, 95, 99])
@pytest.mark.parametrize("rho", [0, 0.5, 0.9])
def test_bounds_of_requests_that_queue_are_rarely_wrong(rho, percentile):
    assert 1 - intervals.binomial_cdf(MISTAKES, SERIES, 0.05) < 0.002
    false_pass, false_fail = wrong_bounds(rho, percentile, 320)
    assert false_pass <= MISTAKES
    assert false_fail <= MISTAKES


@pytest.mark.parametrize("percentile", [50, 95])
def test_bounds_that_take_queued_requests_for_independent_are_often_wrong(percentile, monkeypatch):
    monkeypatch.setattr("loadtests.judging.quantiles.effective_size", lambda *series: len(series[0]))
    false_pass, false_fail = wrong_bounds(0.9, percentile, 320)
    assert min(false_pass, false_fail) > MISTAKES


@pytest.mark.parametrize("percentile", [50, 95])
def test_independent_samples_hardly_lose_by_it(percentile):
    found = [of_samples(list(queued(0, 200, seed)), percentile, 0.05, 0.05).independent for seed in range(SERIES)]
    assert found.count(200) > 0.9 * SERIES
