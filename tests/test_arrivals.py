import itertools
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.arrivals import PROCESSES, schedule

rates = st.floats(0.1, 500)
durations = st.floats(0.1, 20)


@pytest.mark.parametrize(
    ("rate", "duration_s", "starts"),
    [
        (1, 3, [0, 1, 2]),
        (2, 1, [0, 0.5]),
        (2, 1.1, [0, 0.5, 1]),
        (10, 0.3, [0, 0.1, 0.2]),  # 0.3 * 10 is rounded to 3, and 3 / 10 is not below 0.3
        (0.5, 1, [0]),
    ],
)
def test_constant_arrivals_are_evenly_spaced(rate, duration_s, starts):
    assert schedule("constant", rate, duration_s, seed=1) == starts


@settings(deadline=None)
@given(st.sampled_from(PROCESSES), rates, durations, st.integers(0, 9))
def test_a_schedule_ascends_within_its_duration_and_repeats_with_its_seed(process, rate, duration_s, seed):
    starts = schedule(process, rate, duration_s, seed)
    assert all(0 <= start < duration_s for start in starts)
    assert all(before <= after for before, after in itertools.pairwise(starts))
    assert starts == schedule(process, rate, duration_s, seed)


@settings(deadline=None)
@given(rates, durations)
def test_constant_arrivals_number_rate_times_duration(rate, duration_s):
    count = len(schedule("constant", rate, duration_s, seed=1))
    assert count in {math.floor(rate * duration_s), math.ceil(rate * duration_s)}


def test_poisson_gaps_are_exponential():
    starts = schedule("poisson", rate=50, duration_s=400, seed=7)
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    # 20,000 expected; the count's standard deviation is its root, about 141.
    assert abs(len(starts) - 20_000) < 5 * 141
    # Exponential: mean and standard deviation are both 1 / rate, and exp(-1) of the gaps are longer.
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.04)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.04)
    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


def test_another_seed_gives_another_poisson_schedule():
    assert schedule("poisson", 10, 5, seed=1) != schedule("poisson", 10, 5, seed=2)
