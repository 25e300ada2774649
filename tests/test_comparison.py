"""Two runs of the same traffic: what is called a difference, and what is not."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel

from loadtests import samples
from loadtests.judging import comparison
from loadtests.judging.comparison import Change, Difference
from loadtests.judging.measure import Measure
from loadtests.judging.sla import Sla
from loadtests.reports.settings import settings
from loadtests.samples import EmbedSample, GenerateSample, Run, RunError, SampleWriter
from loadtests.traffic import scenario

SLA = Sla(p95_ms=100)


def a_run(seed, *, count=300, rho=0.0, slower=1.0, fails=0.0, first=0):
    """Log-normal latencies around 20 ms whose logarithms are AR(1); some requests fail."""
    draw, z, taken = random.Random(seed), 0.0, []
    for index in range(first, first + count):
        z = rho * z + math.sqrt(1 - rho**2) * draw.gauss(0, 1)
        begin, failed = index / 10, draw.random() < fails
        times = {"intended_s": begin, "started_s": begin, "finished_s": begin + 0.02 * slower * math.exp(z / 2)}
        taken.append(EmbedSample(index=index, **times, ok=not failed, error="TimedOut" if failed else None, texts=1))
    return taken


def changes(before, after):
    return {each.name: each.change for each in comparison.compare(before, after, SLA)}


@pytest.mark.parametrize(
    ("before", "after", "low", "high", "change"),
    [
        # sqrt(3^2 + 4^2) either way around 20.
        ((100, 96, 104), (120, 117, 123), 15, 25, Change.WORSE),
        ((120, 117, 123), (100, 96, 104), -25, -15, Change.BETTER),
        ((100, 96, 104), (103, 100, 106), -2, 8, Change.UNPROVED),
        # Bounds that are not symmetric: each side takes those that matter to it.
        ((100, 94, 103), (110, 106, 118), 5, 20, Change.WORSE),
        ((100, None, 103), (110, 106, 118), 5, math.inf, Change.WORSE),
        ((100, 94, None), (110, 106, 118), -math.inf, 20, Change.UNPROVED),
        ((100, 94, 103), (110, 106, math.inf), 5, math.inf, Change.WORSE),
        ((100, 94, 103), (math.inf, math.inf, math.inf), -math.inf, math.inf, Change.UNPROVED),
        ((math.inf, 50, math.inf), (math.inf, 50, math.inf), -math.inf, math.inf, Change.UNPROVED),
    ],
)
def test_the_interval_of_a_difference(before, after, low, high, change):
    found = comparison.difference(Measure("p95_ms", *before), Measure("p95_ms", *after))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.change is change


def test_more_goodput_is_better():
    assert Difference("goodput", 0.9, 0.99, 0.05, 0.12).change is Change.BETTER
    assert Difference("goodput", 0.99, 0.9, -0.12, -0.05).change is Change.WORSE


values = st.tuples(st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 1e5))


@hypothesis_settings(deadline=None)
@given(values, values)
def test_swapping_the_runs_mirrors_the_difference(one, other):
    before, after = (Measure("p50_ms", value, value - down, value + up) for value, down, up in (one, other))
    there, back = comparison.difference(before, after), comparison.difference(after, before)
    assert (there.low, there.high) == (-back.high, -back.low)
    assert there.low <= after.value - before.value <= there.high


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_two_runs_of_the_same_are_not_called_different(rho):
    # Of 12 pairs at confidence 0.95 three or more are called different with probability 2% at most.
    pairs = [(a_run(seed, rho=rho, count=200), a_run(seed + 100, rho=rho, count=200)) for seed in range(12)]
    assert sum(set(changes(*pair).values()) != {Change.UNPROVED} for pair in pairs) < 3


def test_slower_is_worse_and_faster_is_better():
    before, after = a_run(1, count=600), a_run(2, count=600, slower=1.4)
    assert {changes(before, after)[f"p{n}_ms"] for n in (50, 90)} == {Change.WORSE}
    assert {changes(after, before)[f"p{n}_ms"] for n in (50, 90)} == {Change.BETTER}


def test_failures_are_worse_though_what_is_answered_is_as_fast():
    found = changes(a_run(1), a_run(2, fails=0.2))
    assert (found["error_rate"], found["goodput"]) == (Change.WORSE, Change.WORSE)


def test_streams_are_compared_token_by_token():
    def streams(gap_s):
        return [
            GenerateSample(
                index=index,
                intended_s=index,
                started_s=index,
                finished_s=index + 0.1 + 3 * gap_s,
                ok=True,
                tokens_in=9,
                deltas=tuple((index + 0.1 + n * gap_s, n + 1) for n in range(4)),
            )
            for index in range(40)
        ]

    found = changes(streams(0.01), streams(0.02))
    assert found["tpot_p50_ms"] is Change.WORSE
    assert found["ttft_p50_ms"] is Change.UNPROVED


def written(directory, name, taken):
    directory.mkdir()
    writer = SampleWriter(directory)
    for sample in taken:
        writer.add(sample)
    writer.finish()
    run = {
        "id": directory.name,
        "name": name,
        "url": "grpc://127.0.0.1:8001",
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    of = scenario.load(scenario.locate(name))
    samples.write_run(directory, Run(**run, scenario=of, scheduled=len(taken), lag_p99_ms=0.1, versions={}))
    return directory


def test_runs_on_disk(tmp_path):
    one, same, other, short = (
        written(tmp_path / "one", "embed_smoke", a_run(1)),
        written(tmp_path / "same", "embed_smoke", a_run(2, first=30)),
        written(tmp_path / "other", "embed_batch", a_run(1)),
        written(tmp_path / "short", "embed_smoke", a_run(1, count=20)),
    )
    found = comparison.compare_runs(one, same)
    assert [each.name for each in found] == ["p50_ms", "p90_ms", "p95_ms", "p99_ms", "error_rate", "goodput"]
    with pytest.raises(RunError, match=r"had different traffic: .* in one and .* in the other; compare runs of one"):
        comparison.compare_runs(one, other)
    with pytest.raises(RunError, match="short has no request after its warm-up to compare"):
        comparison.compare_runs(one, short)


def test_a_declaration_becomes_dotted_keys():
    class Inner(BaseModel):
        rate: float = 2.0
        nothing: int | None = None

    class Outer(BaseModel):
        arrivals: Inner = Inner()
        mix: list[Inner] = [Inner(rate=3.0), Inner(rate=1.0)]
        name: str = "x"

    assert settings(Outer()) == {"arrivals.rate": 2.0, "mix.1.rate": 3.0, "mix.2.rate": 1.0, "name": "x"}
