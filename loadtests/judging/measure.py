"""One measured number against its limit, and the words for it. Pure.

An interval that lies within the limit passes, one that lies outside fails, one that straddles it proves nothing.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from loadtests.judging import intervals
from loadtests.judging.quantiles import Quantile


class Outcome(StrEnum):
    """What was proved."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Measure:
    """One measured number; `name` ends in its unit, a rate without one is a fraction.

    `low` and `high` bound the truth, None where no bound exists; infinite is a latency that a failed request
    gave. `independent` is how many independent requests the bounds stand on, None where there are none. `limit` and
    `outcome` are None where the SLA says nothing; `sentence` words what was found. `kind` names the requests of a mix
    that were measured, None for all.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    outcome: Outcome | None = None
    sentence: str = ""
    independent: int | None = None
    kind: str | None = None

    @property
    def label(self) -> str:
        """The name, behind that of its kind of requests."""
        return f"{self.kind}.{self.name}" if self.kind else self.name


@dataclass(frozen=True)
class Requests:
    """How many requests a measure was taken over, and how many of them failed."""

    judged: int
    failed: int


def latency(
    name: str, percentile: int, quantile: Quantile, limit: float | None, requests: Requests, alpha: float
) -> Measure:
    """Judge a percentile of latencies in milliseconds; `alpha` is what its upper bound may err by."""
    value, low, high, independent = quantile.value, quantile.low, quantile.high, quantile.independent
    if limit is None:
        return Measure(name, value, low, high, independent=independent)
    outcome = compare(low, high, limit)
    against = verdict_on(outcome, f"{limit:g} ms")
    if high is None and outcome is Outcome.INCONCLUSIVE:
        needed = intervals.samples_needed(percentile / 100, alpha)
        words = (
            f"needs {needed} requests at confidence {1 - alpha:g}, {requests.judged} were judged; "
            "raise duration_s or rate"
        )
    elif math.isinf(value):
        words = f"is infinite, because {requests.failed} of {requests.judged} requests failed, {against}"
    else:
        bounds = between(milliseconds(low), milliseconds(high), worth(requests.judged, independent))
        words = f"is {milliseconds(value)}{bounds}, {against}"
    return Measure(name, value, low, high, limit, outcome, f"{name} {words}", independent)


def at_least(name: str, value: float, limit: float | None, found: str, limit_text: str) -> Measure:
    """Judge a number that is counted, not estimated, against the least it may be; `found` words the number."""
    if limit is None:
        return Measure(name, value)
    outcome = Outcome.PASS if value >= limit else Outcome.FAIL
    sentence = f"{name} is {found}, {verdict_on(outcome, limit_text)}"
    return Measure(name, value, limit=limit, outcome=outcome, sentence=sentence)


def compare(low: float | None, high: float | None, limit: float) -> Outcome:
    """Say where the interval lies against an upper limit."""
    if high is not None and high <= limit:
        return Outcome.PASS
    if low is not None and low > limit:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE


def milliseconds(value: float | None) -> str:
    """Word a latency in milliseconds, or a bound that does not exist."""
    if value is None:
        return "?"
    return "infinite" if math.isinf(value) else f"{value:.1f} ms"


def between(low: str, high: str, of: str = "") -> str:
    """Word an interval; `of` is what `worth` says of the requests behind it."""
    return f" (between {low} and {high}{of})"


def worth(judged: int, independent: int) -> str:
    """Word that requests depend on each other, where they do."""
    return "" if independent == judged else f"; {judged} requests, which depend on each other, count as {independent}"


def verdict_on(outcome: Outcome, limit: str) -> str:
    """Word where a number lies against its limit."""
    words = {Outcome.PASS: "within", Outcome.FAIL: "outside", Outcome.INCONCLUSIVE: "which straddles"}
    mend = "; a longer run narrows it" if outcome is Outcome.INCONCLUSIVE else ""
    return f"{words[outcome]} the limit of {limit}{mend}"
