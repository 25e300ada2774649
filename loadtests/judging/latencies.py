"""The percentiles of a run's latencies, each against its limit. Pure.

Of requests in the order of their intended starts. `loadtests.judging.verdict` defines the latencies, and states the
rules.
"""

import math
from collections.abc import Callable, Sequence

from loadtests.judging import measure, quantiles
from loadtests.judging.measure import Measure, Outcome, Requests
from loadtests.judging.sla import PERCENTILES, Limits
from loadtests.samples import GenerateSample, Sample

# What the lower and the upper bound of one objective may err by.
Alphas = tuple[float, float]
NEVER = math.inf


def end_to_end(judged: Sequence[Sample], limits: Limits, alphas: Alphas) -> list[Measure]:
    """Return the percentiles of the whole answer."""
    return _percentiles("", [whole_ms(sample) for sample in judged], limits, alphas)


def whole_ms(sample: Sample) -> float:
    """Return the milliseconds to the whole answer, infinite when the request failed."""
    return _clocked(sample.latency_ms) if sample.ok else NEVER


def of_streams(judged: Sequence[GenerateSample], limits: Limits, alphas: Alphas) -> list[Measure]:
    """Return the percentiles that a stream alone has: to the first token, between tokens, a token."""
    firsts = [sample.ttft_ms if sample.ok else None for sample in judged]
    ttft = _percentiles("ttft_", [NEVER if first is None else _clocked(first) for first in firsts], limits, alphas)
    paces = [tpot_ms(sample) if sample.ok else NEVER for sample in judged]
    tpot = _percentiles("tpot_", [pace for pace in paces if pace is not None], limits, alphas)
    return [*ttft, *_itl(judged, limits, alphas), *tpot]


def tpot_ms(sample: GenerateSample) -> float | None:
    """Return the time per output token in milliseconds: (e2e - TTFT) / (tokens - 1), None of fewer than two tokens.

    As in vLLM's and DistServe's benchmarks (Zhong et al. 2024): the mean pace after the first token.
    """
    if sample.tokens_out < 2 or sample.ttft_ms is None:
        return None
    return _clocked((sample.latency_ms - sample.ttft_ms) / (sample.tokens_out - 1))


def _clocked(latency_ms: float) -> float:
    """Samples hold whole microseconds; what a difference has below them is rounding, and no order to rank by."""
    return round(latency_ms, 3)


def _itl(judged: Sequence[GenerateSample], limits: Limits, alphas: Alphas) -> list[Measure]:
    """Inter-token latency; a good request of fewer than two deltas has none and says nothing."""
    groups = [[_clocked(gap) for gap in sample.itl_ms] if sample.ok else [NEVER] for sample in judged]
    groups = [group for group in groups if group]
    requests, every = Requests(len(groups), sum(not sample.ok for sample in judged)), quantiles.Groups(groups)
    return _measures("itl_", lambda n: every.quantile(n, *alphas), requests, limits, alphas)


def _percentiles(latency: str, values: Sequence[float], limits: Limits, alphas: Alphas) -> list[Measure]:
    """Every percentile of one latency a request, in milliseconds."""
    requests = Requests(len(values), values.count(NEVER))
    return _measures(latency, lambda n: quantiles.of_samples(values, n, *alphas), requests, limits, alphas)


def _measures(
    latency: str, quantile: Callable[[int], quantiles.Quantile], requests: Requests, limits: Limits, alphas: Alphas
) -> list[Measure]:
    given = limits.latency_limits_ms()
    names = {n: f"{latency}p{n}_ms" for n in PERCENTILES}
    if not requests.judged:
        return [_nothing(name, given.get(name)) for name in names.values()]
    return [measure.latency(name, n, quantile(n), given.get(name), requests, alphas[1]) for n, name in names.items()]


def _nothing(name: str, limit: float | None) -> Measure:
    outcome = None if limit is None else Outcome.INCONCLUSIVE
    sentence = f"{name}: no answer came in more than one delta; does the server stream, and is output_tokens above 1?"
    return Measure(name, math.inf, limit=limit, outcome=outcome, sentence=sentence if outcome else "")
