"""Samples and an SLA -> PASS, FAIL or INCONCLUSIVE. Pure: no files, no clock, no Locust.

The measures, of a request that was intended at t and answered in full at e, and of its deltas that brought tokens:
at t_1 <= t_2 <= ... with n_1, n_2, ... new output tokens each, by the server's count, N in all:

    p.._ms                e - t: the whole answer, end to end
    ttft_p.._ms           t_1 - t: time to first token
    itl_p.._ms            (t_i - t_(i-1)) / n_i, n_i times for each i >= 2: inter-token latency
    tpot_p.._ms           (e - t_1) / (N - 1), where N >= 2: time per output token
    normalized_latency_ms (e - t) / N, its mean over good judged requests
    output_tokens_per_s   the n_i of good judged requests with t_i in the window, over the window's length
    input_tokens_per_s    input tokens of good judged requests over the window's length
    error_rate            failed requests over judged ones
    goodput               judged requests that met every latency limit, over judged ones: each latency against the
                          loosest of its limits, since half the requests may miss one on the median
    goodput_per_s         the same over the window's length
    achieved_rate         good answers that came within the window, over judged requests

The rules:
1. Judged are the requests intended in the window [warmup_s, duration_s). All times count from the intended
   start.
2. A failed request has infinite latencies: it misses every latency limit, also when tokens came before it failed.
3. Percentiles are bounded by order statistics, the error rate and the goodput by Clopper and Pearson
   (`loadtests.judging.intervals`): PASS when the upper bound keeps the limit, FAIL when the lower bound breaks it, else
   INCONCLUSIVE. With too few samples the upper bound does not exist, so nothing can PASS: n must reach
   k = log(alpha) / log(p), 59 for p95 and 299 for p99 at confidence 0.95. Requests that depend on each other count
   as fewer, m of n, by the rule that `loadtests.judging.autocorrelation` states; where m is below k the upper bound
   lies beyond all that was seen (`loadtests.judging.quantiles`). Failures show that they come in clusters only where
   there are some: a run without any takes them for independent.
   Inter-token latencies of one request depend on each other in their own way. So every request weighs the same,
   whatever its length: its fraction of latencies within the limit is one number in [0, 1], and Hoeffding's
   inequality bounds the mean of those numbers. The bounds hold however tokens of a request depend on each other,
   and n is the number of requests, not of tokens.
   The limits of one kind of a mix are held against its requests alone.
4. alpha = 1 - confidence is what the upper bound may err by; the lower bounds of all k objectives share it,
   alpha / k each (Bonferroni). So a server that breaks any objective passes, and one that keeps all of them
   fails, with probability at most alpha.
5. The achieved rate and what is counted a second are counted, not estimated.
6. The run is INCONCLUSIVE whatever else was seen when samples are missing, when the generator's own lateness
   (p99 of started - intended) is above max_lag_ms, or when it took more than MAX_CPU of its core (p95). Else any
   FAIL fails it, then any INCONCLUSIVE.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from loadtests.judging import latencies, measure, rates
from loadtests.judging.latencies import Alphas
from loadtests.judging.measure import Measure, Outcome
from loadtests.judging.quantiles import nearest_rank
from loadtests.judging.sla import Sla
from loadtests.samples import GenerateSample, Sample, in_window

# Of a core: at a full one requests wait for the generator itself, and what was read late looks slow.
MAX_CPU = 0.9

EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}


@dataclass(frozen=True)
class Facts:
    """What the schedule was: how many requests it holds, its window in seconds, and whether answers were streamed.

    `streamed_kinds` are the kinds of a mix whose answers were. `name` is the scenario's. `cpu_p95` is the generator's
    own share of a core, None where it is not known.
    """

    scheduled: int
    warmup_s: float
    duration_s: float
    streamed: bool = False
    streamed_kinds: frozenset[str] = frozenset()
    cpu_p95: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Verdict:
    """The outcome, the sentences that decided it, every measure, and the failed requests by class.

    `judged` requests were intended in the window, `cut` ones before it, in the warm-up. `vetoes` say why no objective
    is judged at all. `name` is the scenario's. `generator_bound` says that the generator, late or busy, is among them.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...]
    judged: int
    cut: int
    errors: dict[str, int]
    vetoes: tuple[str, ...]
    name: str
    generator_bound: bool = False

    @property
    def exit_code(self) -> int:
        """PASS 0, FAIL 1, INCONCLUSIVE 3."""
        return EXIT_CODES[self.outcome]


def judge(samples: Sequence[Sample], facts: Facts, sla: Sla) -> Verdict:
    """Judge `samples` by `sla`; the module's docstring states the rules. The samples' order is no matter."""
    judged = in_window(samples, facts.warmup_s, facts.duration_s)
    cut = sum(sample.intended_s < facts.warmup_s for sample in samples)
    errors = dict(sorted(Counter(sample.error for sample in judged if sample.error).items()))
    if not judged:
        reason = "no request was intended after the warm-up; raise rate or duration_s"
        return Verdict(Outcome.INCONCLUSIVE, (reason,), (), 0, cut, errors, (reason,), facts.name)
    lag = _lag(judged, sla)
    measures = (*_measures(samples, judged, facts, sla), *_measures_of_kinds(judged, facts, sla), lag)
    generator = _generator_vetoes(lag, facts)
    vetoes = generator + _record_vetoes(len(samples), facts) + _kind_vetoes(judged, sla)
    outcome = Outcome.INCONCLUSIVE if vetoes else _worst(measures)
    decisive = [each.sentence for each in measures if each.outcome is outcome]
    reasons = vetoes or tuple(decisive)
    return Verdict(outcome, reasons, measures, len(judged), cut, errors, vetoes, facts.name, bool(generator))


def _generator_vetoes(lag: Measure, facts: Facts) -> tuple[str, ...]:
    """How the generator, and not the server, made what was measured."""
    vetoes = [lag.sentence] if lag.outcome is Outcome.INCONCLUSIVE else []
    if facts.cpu_p95 is not None and facts.cpu_p95 > MAX_CPU:
        vetoes.append(f"the generator itself was busy: {facts.cpu_p95:.0%} of a core (p95); lower the rate")
    return tuple(vetoes)


def _record_vetoes(recorded: int, facts: Facts) -> tuple[str, ...]:
    if recorded == facts.scheduled:
        return ()
    return (f"{recorded} of {facts.scheduled} scheduled requests are on record; run again",)


def _kind_vetoes(judged: Sequence[Sample], sla: Sla) -> tuple[str, ...]:
    unseen = sla.kinds.keys() - {sample.kind for sample in judged}
    return tuple(
        f"no request of kind '{kind}' was intended after the warm-up; raise rate or duration_s"
        for kind in sorted(unseen)
    )


def _measures(samples: Sequence[Sample], judged: Sequence[Sample], facts: Facts, sla: Sla) -> list[Measure]:
    """Every measure but the generator's own."""
    alphas, window = _alphas(sla), (facts.warmup_s, facts.duration_s)
    window_s = facts.duration_s - facts.warmup_s
    generated = [sample for sample in judged if isinstance(sample, GenerateSample)]
    return [
        *latencies.end_to_end(judged, sla, alphas),
        *(latencies.of_streams(generated, sla, alphas) if generated and facts.streamed else []),
        *rates.normalized_latency(generated),
        *([rates.output_tokens_per_s(generated, window, sla)] if generated else []),
        *rates.input_tokens_per_s(judged, window_s),
        rates.error_rate(judged, sla, alphas),
        *rates.goodput(judged, window_s, sla, alphas),
        rates.achieved_rate(samples, len(judged), window, sla),
    ]


def _measures_of_kinds(judged: Sequence[Sample], facts: Facts, sla: Sla) -> Iterator[Measure]:
    """What is measured of the requests of each kind that has limits of its own."""
    alphas, window_s = _alphas(sla), facts.duration_s - facts.warmup_s
    for kind, limits in sla.kinds.items():
        if not (found := [sample for sample in judged if sample.kind == kind]):
            continue
        streams = [each for each in found if isinstance(each, GenerateSample) and kind in facts.streamed_kinds]
        measures = [
            *latencies.end_to_end(found, limits, alphas),
            *(latencies.of_streams(streams, limits, alphas) if streams else []),
            rates.error_rate(found, limits, alphas),
            *rates.goodput(found, window_s, limits, alphas),
        ]
        for each in measures:
            yield replace(each, kind=kind, sentence=f"{kind}.{each.sentence}" if each.sentence else "")


def _worst(measures: Sequence[Measure]) -> Outcome:
    found = {each.outcome for each in measures}
    return next((o for o in (Outcome.FAIL, Outcome.INCONCLUSIVE) if o in found), Outcome.PASS)


def _alphas(sla: Sla) -> Alphas:
    """What the lower and the upper bound of one objective may err by."""
    objectives = sla.estimated + sum(limits.estimated for limits in sla.kinds.values())
    alpha = 1.0 - sla.confidence
    return alpha / max(objectives, 1), alpha


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
    return nearest_rank(lags, 99) if lags else 0.0
