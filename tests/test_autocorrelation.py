"""The effective sample size against series whose dependence is known."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.judging.autocorrelation import autocorrelation_time, effective_size, ranks


def ar1(rho, count, seed):
    draw = random.Random(seed)
    value, series = draw.gauss(0, 1), []
    for _ in range(count):
        series.append(value)
        value = rho * value + math.sqrt(1 - rho**2) * draw.gauss(0, 1)
    return series


@pytest.mark.parametrize(("rho", "within"), [(0.5, 0.1), (0.8, 0.15), (0.9, 0.2)])
def test_the_time_of_an_autoregressive_series_is_known(rho, within):
    truth = (1 + rho) / (1 - rho)
    times = [autocorrelation_time(ar1(rho, 4000, seed)) for seed in range(20)]
    assert statistics.mean(times) == pytest.approx(truth, rel=within)


def test_independent_samples_count_in_full_39_times_of_40():
    times = [autocorrelation_time([random.Random(seed * 997 + i).random() for i in range(300)]) for seed in range(200)]
    assert times.count(1.0) >= 188  # P(Bin(200, 0.975) < 188) = 0.002


@pytest.mark.parametrize(
    "series",
    [[1], [1, 2, 3], [5.0] * 100, [0.1] * 7, [0, 1] * 100, [True, False, False] * 50],
    ids=["one", "three", "constant", "constant fraction", "alternating", "every third"],
)
def test_what_does_not_cluster_counts_in_full(series):
    assert effective_size(series) == len(series)


def test_the_series_that_depends_most_decides():
    apart, together = [0, 1] * 50, [0] * 50 + [1] * 50
    assert effective_size(apart, together) == effective_size(together) < 10


def test_two_servers_in_turn_are_seen():
    # Every other request goes to the same queue: neighbours do not depend on each other, but the ones after do.
    pairs = zip(ar1(0.9, 300, 1), ar1(0.9, 300, 2), strict=True)
    assert effective_size([value for pair in pairs for value in pair]) < 100


@given(st.lists(st.one_of(st.integers(0, 5), st.just(math.inf)), max_size=30))
def test_ranks_are_the_mean_places_in_order(values):
    ordered = sorted(values)
    for value, rank in zip(values, ranks(values), strict=True):
        assert rank == statistics.mean(place for place, other in enumerate(ordered, 1) if other == value)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_an_effective_size_is_at_least_one_and_at_most_all(values):
    assert 1 <= effective_size(values) <= len(values)
