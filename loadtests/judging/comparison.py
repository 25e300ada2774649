"""Did a change make it slower? Two runs of the same traffic -> what differs, by how much. Pure, but for `compare_runs`.

The rules:
1. Compared is what both runs measured with bounds: percentiles of latencies, the share of failed requests, goodput.
   Percentiles, their bounds, and how requests that depend on each other count are those of `loadtests.judging.verdict`.
2. The difference d = after - before is bounded by the method of variance estimates recovery (Zou and Donner,
   Construction of confidence intervals about effect measures, Statistics in Medicine 27, 2008), which for shares is
   Newcombe's interval (Statistics in Medicine 17, 1998). With l and u the bounds of each run's own value x:

       low  = d - sqrt((x_after - l_after)^2 + (u_before - x_before)^2)
       high = d + sqrt((u_after - x_after)^2 + (x_before - l_before)^2)

   A bound that does not exist, or is infinite because of failed requests, leaves the difference open on its side.
3. Significant is a difference whose interval does not hold 0. All k measures share alpha = 1 - confidence, alpha / k
   each (Bonferroni): two runs of the same are called different in anything with probability about alpha at most.

What it cannot know: whether something else changed between the runs. Two runs on a noisy machine differ by what the
machine did; run both more than once, in turns.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loadtests.judging import latencies, rates
from loadtests.judging.latencies import Alphas
from loadtests.judging.measure import Measure
from loadtests.judging.sla import Sla
from loadtests.reports.settings import settings
from loadtests.samples import GenerateSample, Run, RunError, Sample, in_window, read_run

CONFIDENCE = 0.95


class Change(StrEnum):
    """What was proved of one measure."""

    BETTER = "better"
    WORSE = "worse"
    UNPROVED = "no difference proved"


@dataclass(frozen=True)
class Difference:
    """One measure in both runs, and the bounds of after - before; infinite where the difference is open."""

    name: str
    before: float
    after: float
    low: float
    high: float

    @property
    def change(self) -> Change:
        """Say which side of 0 the interval lies on; of goodput more is better, of all else less."""
        if self.low <= 0 <= self.high:
            return Change.UNPROVED
        return Change.WORSE if (self.low > 0) != (self.name == "goodput") else Change.BETTER


def compare_runs(before: Path, after: Path, confidence: float = CONFIDENCE) -> list[Difference]:
    """Return the differences between the finished runs in two folders; goodput is by the SLA of the one before.

    Raises RunError: one is unfinished or damaged, or they had different traffic.
    """
    first, second = read_run(before), read_run(after)
    mine, other = settings(first[0].scenario), settings(second[0].scenario)
    for key in mine | other:
        if mine.get(key) != other.get(key) and not key.startswith("sla."):
            raise RunError(
                f"{before} and {after} had different traffic: {key} is {mine.get(key, 'not set')} in one and "
                f"{other.get(key, 'not set')} in the other; compare runs of one scenario"
            )
    return compare(_judged(*first), _judged(*second), first[0].scenario.sla, confidence)


def _judged(run: Run, samples: Sequence[Sample]) -> list[Sample]:
    arrivals = run.scenario.arrivals
    judged = in_window(samples, arrivals.warmup_s, arrivals.duration_s)
    if not judged:
        raise RunError(f"{run.id} has no request after its warm-up to compare; run it for longer")
    return judged


def compare(
    before: Sequence[Sample], after: Sequence[Sample], sla: Sla, confidence: float = CONFIDENCE
) -> list[Difference]:
    """Return the differences between the judged samples of two runs, as `in_window` has them.

    `sla` says what goodput is.
    """
    # How many measures share the risk is known once they are there, and does not depend on it.
    count = len(_pairs(before, after, sla, (0.5, 0.5)))
    alpha = (1 - confidence) / max(count, 1) / 2
    return [difference(*pair) for pair in _pairs(before, after, sla, (alpha, alpha))]


def difference(before: Measure, after: Measure) -> Difference:
    """Return the difference of one measure; the module's docstring has the formula."""
    change = 0.0 if before.value == after.value else after.value - before.value
    down = math.hypot(_distance(after.value, after.low), _distance(before.value, before.high))
    up = math.hypot(_distance(after.value, after.high), _distance(before.value, before.low))
    low = -math.inf if math.isinf(down) else change - down
    high = math.inf if math.isinf(up) else change + up
    return Difference(before.name, before.value, after.value, low, high)


def _distance(value: float, bound: float | None) -> float:
    """How far a bound lies from its value, infinitely far where either is not known."""
    if bound is None or math.isinf(bound) or math.isinf(value):
        return math.inf
    return abs(value - bound)


def _pairs(
    before: Sequence[Sample], after: Sequence[Sample], sla: Sla, alphas: Alphas
) -> list[tuple[Measure, Measure]]:
    """What both runs measured, as (before, after)."""
    first, second = ({each.name: each for each in _measures(run, sla, alphas)} for run in (before, after))
    return [(measure, second[name]) for name, measure in first.items() if name in second]


def _measures(judged: Sequence[Sample], sla: Sla, alphas: Alphas) -> Iterable[Measure]:
    streams = [sample for sample in judged if isinstance(sample, GenerateSample)]
    yield from latencies.end_to_end(judged, sla, alphas)
    if any(sample.itl_ms for sample in streams):
        yield from latencies.of_streams(streams, sla, alphas)
    yield rates.error_rate(judged, sla, alphas)
    yield from (measure for measure in rates.goodput(judged, 1.0, sla, alphas) if measure.name == "goodput")
