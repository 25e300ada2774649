"""Samples and an SLA -> PASS, FAIL or INCONCLUSIVE. Pure: no files, no clock, no Locust.

The measures, of a request that was intended at t and answered in full at e, and of its deltas that brought tokens:
at t_1 <= t_2 <= ... with n_1, n_2, ... new output tokens each, by the server's count:

    p.._ms                e - t: the whole answer, end to end
    ttft_p.._ms           t_1 - t: time to first token
    itl_p.._ms            (t_i - t_(i-1)) / n_i, n_i times for each i >= 2: inter-token latency
    output_tokens_per_s   the n_i of good judged requests with t_i in the window, over the window's length
    error_rate            failed requests over judged ones
    achieved_rate         good answers that came within the window, over judged requests

The rules:
1. Judged are the requests intended in the window [warmup_s, duration_s). All times count from the intended
   start.
2. A failed request has infinite latencies: it misses every latency limit, also when tokens came before it failed.
3. Percentiles are bounded by order statistics, the error rate by Clopper and Pearson (`loadtests.intervals`):
   PASS when the upper bound keeps the limit, FAIL when the lower bound breaks it, else INCONCLUSIVE. With too
   few samples the upper bound does not exist, so nothing can PASS: n must reach log(alpha) / log(p), 59 for
   p95 and 299 for p99 at confidence 0.95.
   Inter-token latencies of one request depend on each other; independent are only the requests. So every request
   weighs the same, whatever its length: its fraction of latencies within the limit is one number in [0, 1], and
   Hoeffding's inequality bounds the mean of those numbers. The bounds hold however tokens of a request depend on
   each other, and n is the number of requests, not of tokens.
4. alpha = 1 - confidence is what the upper bound may err by; the lower bounds of all k objectives share it,
   alpha / k each (Bonferroni). So a server that breaks any objective passes, and one that keeps all of them
   fails, with probability at most alpha, for independent samples.
5. The achieved rate and the output tokens per second are counted, not estimated.
6. The run is INCONCLUSIVE whatever else was seen when samples are missing or when the generator's own
   lateness (p99 of started - intended) is above max_lag_ms. Else any FAIL fails it, then any INCONCLUSIVE.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests import intervals, measure, quantiles
from loadtests.measure import Measure, Outcome, Requests
from loadtests.samples import GenerateSample, Sample
from loadtests.sla import PERCENTILES, Sla

EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}


@dataclass(frozen=True)
class Facts:
    """What the schedule was: how many requests it holds, its window in seconds, and whether answers were streamed."""

    scheduled: int
    warmup_s: float
    duration_s: float
    streamed: bool = False


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
        *_generation(judged, facts, sla),
        _error_rate(judged, sla),
        _achieved_rate(samples, judged, facts, sla),
        lag,
    )
    vetoes = [lag.sentence] if lag.outcome is Outcome.INCONCLUSIVE else []
    if len(samples) != facts.scheduled:
        vetoes.append(f"{len(samples)} of {facts.scheduled} scheduled requests are on record; run again")
    outcome = Outcome.INCONCLUSIVE if vetoes else _worst(measures)
    decisive = [each.sentence for each in measures if each.outcome is outcome]
    return Verdict(outcome, tuple(vetoes or decisive), measures, len(judged), errors)


def _worst(measures: Sequence[Measure]) -> Outcome:
    found = {each.outcome for each in measures}
    return next((o for o in (Outcome.FAIL, Outcome.INCONCLUSIVE) if o in found), Outcome.PASS)


def _alphas(sla: Sla) -> tuple[float, float]:
    """What the lower and the upper bound of one objective may err by."""
    objectives = len(sla.latency_limits_ms()) + (sla.max_error_rate is not None)
    alpha = 1.0 - sla.confidence
    return alpha / max(objectives, 1), alpha


def _latencies(judged: Sequence[Sample], sla: Sla) -> list[Measure]:
    """The whole answer."""
    return _independent("", [sample.latency_ms if sample.ok else math.inf for sample in judged], sla)


def _generation(judged: Sequence[Sample], facts: Facts, sla: Sla) -> list[Measure]:
    """What only the generate task has: tokens."""
    generated = [sample for sample in judged if isinstance(sample, GenerateSample)]
    if not generated:
        return []
    rate = _output_tokens_per_s(generated, facts, sla)
    return [*_ttft(generated, sla), *_itl(generated, sla), rate] if facts.streamed else [rate]


def _ttft(judged: Sequence[GenerateSample], sla: Sla) -> list[Measure]:
    firsts = [sample.ttft_ms if sample.ok else None for sample in judged]
    return _independent("ttft_", [math.inf if first is None else first for first in firsts], sla)


def _itl(judged: Sequence[GenerateSample], sla: Sla) -> list[Measure]:
    """Inter-token latency; a good request of fewer than two deltas has none and says nothing."""
    groups = [sample.itl_ms if sample.ok else [math.inf] for sample in judged]
    groups = [group for group in groups if group]
    if not groups:
        return [_no_itl(f"itl_p{n}_ms", sla) for n in PERCENTILES]
    requests = Requests(len(groups), sum(not sample.ok for sample in judged))
    return [_percentile("itl_", n, quantiles.of_groups(groups, n, *_alphas(sla)), requests, sla) for n in PERCENTILES]


def _no_itl(name: str, sla: Sla) -> Measure:
    limit = sla.latency_limits_ms().get(name)
    outcome = None if limit is None else Outcome.INCONCLUSIVE
    sentence = f"{name}: no answer came in more than one delta; does the server stream, and is output_tokens above 1?"
    return Measure(name, math.inf, limit=limit, outcome=outcome, sentence=sentence if outcome else "")


def _independent(kind: str, values: Sequence[float], sla: Sla) -> list[Measure]:
    """Every percentile of one latency a request, in milliseconds."""
    requests = Requests(len(values), values.count(math.inf))
    return [
        _percentile(kind, n, quantiles.of_independent(values, n, *_alphas(sla)), requests, sla) for n in PERCENTILES
    ]


def _percentile(kind: str, percentile: int, quantile: quantiles.Quantile, requests: Requests, sla: Sla) -> Measure:
    name = f"{kind}p{percentile}_ms"
    _, alpha_high = _alphas(sla)
    return measure.latency(name, percentile, quantile, sla.latency_limits_ms().get(name), requests, alpha_high)


def _error_rate(judged: Sequence[Sample], sla: Sla) -> Measure:
    n, failed = len(judged), sum(not sample.ok for sample in judged)
    low, high = intervals.clopper_pearson(failed, n, *_alphas(sla))
    limit, value = sla.max_error_rate, failed / n
    if limit is None:
        return Measure("error_rate", value, low, high)
    outcome = measure.compare(low, high, limit)
    bounds = measure.between(f"{low:.2%}", f"{high:.2%}")
    sentence = f"error_rate is {value:.2%}{bounds}, {failed} of {n}, {measure.verdict_on(outcome, f'{limit:.2%}')}"
    return Measure("error_rate", value, low, high, limit, outcome, sentence)


def _achieved_rate(samples: Sequence[Sample], judged: Sequence[Sample], facts: Facts, sla: Sla) -> Measure:
    """Answers that came within the window, over requests intended in it.

    In steady flow as many answers of the warm-up come in at the front as are still out at the end; a growing
    backlog is missing at the end.
    """
    answered = sum(sample.ok and facts.warmup_s <= sample.finished_s < facts.duration_s for sample in samples)
    limit, value = sla.min_achieved_rate, answered / len(judged)
    found = f"{value:.1%} of the offered rate, {answered} answers for {len(judged)} requests"
    return measure.at_least("achieved_rate", value, limit, found, f"{limit or 0:.1%}")


def _output_tokens_per_s(judged: Sequence[GenerateSample], facts: Facts, sla: Sla) -> Measure:
    """Output tokens of good requests that came within the window, over its length.

    What a request that was intended in the window gets after its end is not counted: at a rate near the limit, make
    the window long against one answer.
    """
    good = [sample for sample in judged if sample.ok]
    tokens = sum(new for sample in good for at, new in sample.arrivals if at < facts.duration_s)
    window_s = facts.duration_s - facts.warmup_s
    limit, value = sla.min_output_tokens_per_s, tokens / window_s
    found = f"{value:.1f} tokens/s, {tokens} tokens in {window_s:g} s"
    return measure.at_least("output_tokens_per_s", value, limit, found, f"{limit or 0:g} tokens/s")


def _lag(judged: Sequence[Sample], sla: Sla) -> Measure:
    """The generator's own lateness: above the limit the run says nothing, so it is never FAIL."""
    value = lag_p99_ms(judged)
    late = value > sla.max_lag_ms
    sentence = (
        f"the generator itself was late: p99 of started - intended is {measure.milliseconds(value)}, allowed are "
        f"{sla.max_lag_ms:g} ms; lower the rate or give it a free core"
    )
    outcome = Outcome.INCONCLUSIVE if late else None
    return Measure("lag_p99_ms", value, limit=sla.max_lag_ms, outcome=outcome, sentence=sentence if late else "")


def lag_p99_ms(samples: Sequence[Sample]) -> float:
    """Return the 99th percentile (nearest rank) of started - intended in milliseconds, 0 without samples."""
    lags = sorted(sample.lag_ms for sample in samples)
    return lags[-(-99 * len(lags) // 100) - 1] if lags else 0.0
