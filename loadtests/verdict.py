"""Samples and an SLA -> PASS, FAIL or INCONCLUSIVE. Pure: no files, no clock, no Locust.

The rules:
1. Judged are the requests intended in the window [warmup_s, duration_s). All times count from the intended
   start.
2. A failed request has infinite latency: it misses every latency limit.
3. Percentiles are bounded by order statistics, the error rate by Clopper and Pearson (`loadtests.intervals`):
   PASS when the upper bound keeps the limit, FAIL when the lower bound breaks it, else INCONCLUSIVE. With too
   few samples the upper bound does not exist, so nothing can PASS: n must reach log(alpha) / log(p), 59 for
   p95 and 299 for p99 at confidence 0.95.
4. alpha = 1 - confidence is what the upper bound may err by; the lower bounds of all k objectives share it,
   alpha / k each (Bonferroni). So a server that breaks any objective passes, and one that keeps all of them
   fails, with probability at most alpha, for independent samples.
5. The achieved rate is counted, not estimated: answers that came within the window over requests intended in
   it.
6. The run is INCONCLUSIVE whatever else was seen when samples are missing or when the generator's own
   lateness (p99 of started - intended) is above max_lag_ms. Else any FAIL fails it, then any INCONCLUSIVE.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from loadtests import intervals
from loadtests.samples import Sample
from loadtests.scenario import Sla

REPORTED_PERCENTILES = (50, 90, 95, 99)


class Outcome(StrEnum):
    """What was proved."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}


@dataclass(frozen=True)
class Facts:
    """What the schedule was: how many requests it holds, and its window in seconds."""

    scheduled: int
    warmup_s: float
    duration_s: float


@dataclass(frozen=True)
class Measure:
    """One measured number; `name` ends in its unit, a rate without one is a fraction.

    `low` and `high` bound the truth, None where no bound exists; infinite is a latency that a failed request
    gave. `limit` and `outcome` are None where the SLA says nothing; `sentence` words what was found.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    outcome: Outcome | None = None
    sentence: str = ""


@dataclass(frozen=True)
class Verdict:
    """The outcome, the sentences that decided it, every measure, and the failed requests by class."""

    outcome: Outcome
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...]
    judged: int
    errors: dict[str, int]

    @property
    def exit_code(self) -> int:
        """PASS 0, FAIL 1, INCONCLUSIVE 3."""
        return EXIT_CODES[self.outcome]


def judge(samples: Sequence[Sample], facts: Facts, sla: Sla) -> Verdict:
    """Judge `samples` by `sla`; the module's docstring states the rules. The samples' order is no matter."""
    judged = [sample for sample in samples if facts.warmup_s <= sample.intended_s < facts.duration_s]
    errors = dict(sorted(Counter(sample.error for sample in judged if sample.error).items()))
    if not judged:
        reason = "no request was intended after the warm-up; raise rate or duration_s"
        return Verdict(Outcome.INCONCLUSIVE, (reason,), (), 0, errors)
    lag = _lag(judged, sla)
    measures = (
        *_latencies(judged, sla),
        _error_rate(judged, sla),
        _achieved_rate(samples, judged, facts, sla),
        lag,
    )
    vetoes = [lag.sentence] if lag.outcome is Outcome.INCONCLUSIVE else []
    if len(samples) != facts.scheduled:
        vetoes.append(f"{len(samples)} of {facts.scheduled} scheduled requests are on record; run again")
    outcome = Outcome.INCONCLUSIVE if vetoes else _worst(measures)
    decisive = [measure.sentence for measure in measures if measure.outcome is outcome]
    return Verdict(outcome, tuple(vetoes or decisive), measures, len(judged), errors)


def _worst(measures: Sequence[Measure]) -> Outcome:
    found = {measure.outcome for measure in measures}
    return next((o for o in (Outcome.FAIL, Outcome.INCONCLUSIVE) if o in found), Outcome.PASS)


def _alphas(sla: Sla) -> tuple[float, float]:
    """What the lower and the upper bound of one objective may err by."""
    objectives = len(sla.latency_limits_ms()) + (sla.max_error_rate is not None)
    alpha = 1.0 - sla.confidence
    return alpha / max(objectives, 1), alpha


def _compare(low: float | None, high: float | None, limit: float) -> Outcome:
    """Where the interval lies against an upper limit."""
    if high is not None and high <= limit:
        return Outcome.PASS
    if low is not None and low > limit:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE


def _latencies(judged: Sequence[Sample], sla: Sla) -> list[Measure]:
    ordered = sorted(sample.latency_ms if sample.ok else math.inf for sample in judged)
    limits = sla.latency_limits_ms()
    return [_latency(ordered, percentile, limits.get(percentile), sla) for percentile in REPORTED_PERCENTILES]


def _latency(ordered: Sequence[float], percentile: int, limit: float | None, sla: Sla) -> Measure:
    """One percentile of ascending latencies, in milliseconds; the value is the nearest rank, ceil(p * n)."""
    n, p = len(ordered), percentile / 100
    alpha_low, alpha_high = _alphas(sla)
    lower, upper = intervals.lower_rank(n, p, alpha_low), intervals.upper_rank(n, p, alpha_high)
    value = ordered[-(-percentile * n // 100) - 1]
    low = None if lower is None else ordered[lower - 1]
    high = None if upper is None else ordered[upper - 1]
    name = f"p{percentile}_ms"
    if limit is None:
        return Measure(name, value, low, high)
    outcome = _compare(low, high, limit)
    against = _against(outcome, f"{limit:g} ms")
    if upper is None and outcome is Outcome.INCONCLUSIVE:
        needed = intervals.samples_needed(p, alpha_high)
        words = f"needs {needed} requests at confidence {sla.confidence:g}, {n} were judged; raise duration_s or rate"
    elif math.isinf(value):
        words = f"is infinite, because {ordered.count(math.inf)} of {n} requests failed, {against}"
    else:
        words = f"is {_ms(value)}{_between(_ms(low), _ms(high))}, {against}"
    return Measure(name, value, low, high, limit, outcome, f"{name} {words}")


def _error_rate(judged: Sequence[Sample], sla: Sla) -> Measure:
    n, failed = len(judged), sum(not sample.ok for sample in judged)
    low, high = intervals.clopper_pearson(failed, n, *_alphas(sla))
    limit, value = sla.max_error_rate, failed / n
    if limit is None:
        return Measure("error_rate", value, low, high)
    outcome = _compare(low, high, limit)
    bounds = _between(f"{low:.2%}", f"{high:.2%}")
    sentence = f"error_rate is {value:.2%}{bounds}, {failed} of {n}, {_against(outcome, f'{limit:.2%}')}"
    return Measure("error_rate", value, low, high, limit, outcome, sentence)


def _achieved_rate(samples: Sequence[Sample], judged: Sequence[Sample], facts: Facts, sla: Sla) -> Measure:
    """Answers that came within the window, over requests intended in it.

    In steady flow as many answers of the warm-up come in at the front as are still out at the end; a growing
    backlog is missing at the end.
    """
    answered = sum(sample.ok and facts.warmup_s <= sample.finished_s < facts.duration_s for sample in samples)
    limit, value = sla.min_achieved_rate, answered / len(judged)
    if limit is None:
        return Measure("achieved_rate", value)
    outcome = Outcome.PASS if value >= limit else Outcome.FAIL
    of = f"{answered} answers for {len(judged)} requests"
    sentence = f"achieved_rate is {value:.1%} of the offered rate, {of}, {_against(outcome, f'{limit:.1%}')}"
    return Measure("achieved_rate", value, limit=limit, outcome=outcome, sentence=sentence)


def _lag(judged: Sequence[Sample], sla: Sla) -> Measure:
    """The generator's own lateness: above the limit the run says nothing, so it is never FAIL."""
    value = lag_p99_ms(judged)
    late = value > sla.max_lag_ms
    sentence = (
        f"the generator itself was late: p99 of started - intended is {_ms(value)}, allowed are "
        f"{sla.max_lag_ms:g} ms; lower the rate or give it a free core"
    )
    outcome = Outcome.INCONCLUSIVE if late else None
    return Measure("lag_p99_ms", value, limit=sla.max_lag_ms, outcome=outcome, sentence=sentence if late else "")


def lag_p99_ms(samples: Sequence[Sample]) -> float:
    """Return the 99th percentile (nearest rank) of started - intended in milliseconds, 0 without samples."""
    lags = sorted(sample.lag_ms for sample in samples)
    return lags[-(-99 * len(lags) // 100) - 1] if lags else 0.0


def _ms(value: float | None) -> str:
    if value is None:
        return "?"
    return "infinite" if math.isinf(value) else f"{value:.1f} ms"


def _between(low: str, high: str) -> str:
    return f" (between {low} and {high})"


def _against(outcome: Outcome, limit: str) -> str:
    words = {Outcome.PASS: "within", Outcome.FAIL: "outside", Outcome.INCONCLUSIVE: "which straddles"}
    mend = "; a longer run narrows it" if outcome is Outcome.INCONCLUSIVE else ""
    return f"{words[outcome]} the limit of {limit}{mend}"
