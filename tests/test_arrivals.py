"""Schedules: in range, ascending, repeatable, and as many and as bursty as their process says."""

import itertools
import math
import statistics
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loadtests.traffic import arrivals
from loadtests.traffic.arrivals import Closed, Constant, Gamma, Poisson, Ramp, Spike, Trace

rates = st.floats(0.1, 500)
durations = st.floats(0.1, 20)
seeds = st.integers(0, 9)


def constant(rate, duration_s):
    return Constant(process="constant", rate=rate, duration_s=duration_s).schedule()


@st.composite
def open_arrivals(draw):
    """Any process that is drawn ahead, from a rate of its own."""
    common = {"rate": draw(rates), "duration_s": draw(durations), "seed": draw(seeds)}
    match draw(st.sampled_from(["constant", "poisson", "gamma", "ramp", "spike"])):
        case "gamma":
            return Gamma(process="gamma", cv=draw(st.floats(0.01, 10)), **common)
        case "ramp":
            return Ramp(process="ramp", end_rate=draw(rates), **common)
        case "spike":
            third = common["duration_s"] / 3
            return Spike(process="spike", spike_rate=draw(rates), spike_start_s=third, spike_s=third, **common)
        case process:
            return {"constant": Constant, "poisson": Poisson}[process](process=process, **common)


def gaps_of(starts):
    return [after - before for before, after in itertools.pairwise(starts)]


def count_within(starts, begin, end):
    return sum(begin <= start < end for start in starts)


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
    assert constant(rate, duration_s) == starts


@settings(deadline=None)
@given(open_arrivals())
def test_a_schedule_ascends_within_its_duration_and_repeats_with_its_seed(of):
    starts = of.schedule()
    assert all(0 <= start < of.duration_s for start in starts)
    assert all(before <= after for before, after in itertools.pairwise(starts))
    assert starts == of.schedule()


@settings(deadline=None)
@given(rates, durations)
def test_constant_arrivals_number_rate_times_duration(rate, duration_s):
    assert len(constant(rate, duration_s)) in {math.floor(rate * duration_s), math.ceil(rate * duration_s)}


def test_poisson_gaps_are_exponential():
    starts = Poisson(process="poisson", rate=50, duration_s=400, seed=7).schedule()
    gaps = gaps_of(starts)
    # 20,000 expected; the count's standard deviation is its root, about 141.
    assert abs(len(starts) - 20_000) < 5 * 141
    # Exponential: mean and standard deviation are both 1 / rate, and exp(-1) of the gaps are longer.
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.04)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.04)
    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


@pytest.mark.parametrize("cv", [0.1, 0.5, 1, 2, 4])
def test_gamma_gaps_keep_the_rate_and_have_the_declared_variation(cv):
    starts = Gamma(process="gamma", rate=50, cv=cv, duration_s=400, seed=7).schedule()
    gaps = gaps_of(starts)
    # The count of a renewal process has standard deviation cv * sqrt(rate * duration).
    assert abs(len(starts) - 20_000) < 5 * cv * 141 + 1
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(cv, rel=0.1)


def test_bursts_do_not_crowd_at_the_beginning():
    # A process that began with a burst would give (cv**2 - 1) / 2 = 7.5 requests more in every schedule.
    counts = [len(Gamma(process="gamma", rate=10, cv=4, duration_s=10, seed=seed).schedule()) for seed in range(1000)]
    # 100 expected; one count's standard deviation is at most about 4 * 10, the mean of 1000 has 1.3.
    assert statistics.mean(counts) == pytest.approx(100, abs=5)


@pytest.mark.parametrize(("rate", "end_rate"), [(10, 90), (90, 10), (50, 50)])
def test_a_ramp_goes_straight_from_rate_to_end_rate(rate, end_rate):
    starts = Ramp(process="ramp", rate=rate, end_rate=end_rate, duration_s=400, seed=7).schedule()
    for quarter in range(4):
        middle = rate + (end_rate - rate) * (quarter + 0.5) / 4
        expected = middle * 100
        assert abs(count_within(starts, quarter * 100, quarter * 100 + 100) - expected) < 5 * math.sqrt(expected)


def test_a_spike_is_where_it_was_declared():
    starts = Spike(
        process="spike", rate=10, spike_rate=100, spike_start_s=100, spike_s=50, duration_s=300, seed=7
    ).schedule()
    for begin, end, expected in [(0, 100, 1000), (100, 150, 5000), (150, 300, 1500)]:
        assert abs(count_within(starts, begin, end) - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize(("start_s", "spike_s"), [(1, 1), (9, 2)])
def test_a_spike_that_is_not_judged_is_refused(start_s, spike_s):
    with pytest.raises(ValidationError, match="must lie between warmup_s = 2 and duration_s = 10"):
        Spike(
            process="spike",
            rate=1,
            spike_rate=2,
            spike_start_s=start_s,
            spike_s=spike_s,
            warmup_s=2.0,
            duration_s=10,
        )


def test_another_seed_gives_another_schedule():
    assert (
        Poisson(process="poisson", rate=10, duration_s=5, seed=1).schedule()
        != Poisson(process="poisson", rate=10, duration_s=5, seed=2).schedule()
    )


def a_trace(tmp_path, **changes):
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            f'{{"timestamp": {1000 + 500 * i}, "input_length": {100 * i}, "output_length": {20 * i}}}\n'
            for i in range(5)
        )
    )
    keys = {"max_input_tokens": 250, "max_output_tokens": 50, "duration_s": 60} | changes
    return Trace(process="trace", file=str(path), **keys)


def test_a_trace_is_sent_as_it_was_recorded(tmp_path):
    assert a_trace(tmp_path).schedule() == [0, 0.5, 1, 1.5, 2]
    # What the model cannot take is cut, and a length of 0 is one no request can have.
    lengths = [(row.tokens_in, row.tokens_out) for row in a_trace(tmp_path).requests()]
    assert lengths == [(1, 1), (100, 20), (200, 40), (250, 50), (250, 50)]


def test_a_trace_is_sped_up_and_broken_off(tmp_path):
    assert a_trace(tmp_path, speedup=2).schedule() == [0, 0.25, 0.5, 0.75, 1]
    assert a_trace(tmp_path, speedup=2, duration_s=0.75).schedule() == [0, 0.25, 0.5]


def test_of_a_closed_loop_only_the_first_starts_are_known():
    assert Closed(process="closed", users=3, duration_s=5).schedule() == [0, 0, 0]


def test_every_process_has_its_table():
    tables = [get_args(kind.model_fields["process"].annotation) for kind in get_args(arrivals.Arrivals)]
    assert tables == [(name,) for name in get_args(arrivals.Process)]
