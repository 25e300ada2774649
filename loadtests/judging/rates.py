"""What of a run is counted: shares of its requests, and what it did a second. Pure.

Of requests in the order of their intended starts. `loadtests.judging.verdict` defines the measures, and states the
rules.
"""

import statistics
from collections.abc import Mapping, Sequence

from loadtests.judging import intervals, measure
from loadtests.judging.autocorrelation import effective_size
from loadtests.judging.latencies import Alphas, tpot_ms, whole_ms
from loadtests.judging.measure import Measure
from loadtests.judging.sla import Limits, Sla
from loadtests.samples import EmbedSample, GenerateSample, Sample


def error_rate(judged: Sequence[Sample], limits: Limits, alphas: Alphas) -> Measure:
    """Return the share of requests that failed."""
    failed = [not sample.ok for sample in judged]
    low, high, independent = _share(failed, alphas)
    n, limit, value = len(judged), limits.max_error_rate, sum(failed) / len(judged)
    if limit is None:
        return Measure("error_rate", value, low, high, independent=independent)
    outcome = measure.compare(low, high, limit)
    bounds = measure.between(f"{low:.2%}", f"{high:.2%}", measure.worth(n, independent))
    against = measure.verdict_on(outcome, f"{limit:.2%}")
    sentence = f"error_rate is {value:.2%}{bounds}, {sum(failed)} of {n}, {against}"
    return Measure("error_rate", value, low, high, limit, outcome, sentence, independent)


def goodput(judged: Sequence[Sample], window_s: float, limits: Limits, alphas: Alphas) -> list[Measure]:
    """Return goodput, the share of requests that met every latency limit, and how many they were a second.

    Nothing where the SLA limits no latency.
    """
    loosest = limits.loosest_limits()
    if not loosest:
        return []
    missed = [not meets(sample, loosest) for sample in judged]
    least_missed, most_missed, independent = _share(missed, alphas)
    low, high, n, met = 1 - most_missed, 1 - least_missed, len(judged), missed.count(False)
    limit, value = limits.min_goodput, met / n
    per_s = Measure("goodput_per_s", met / window_s)
    if limit is None:
        return [Measure("goodput", value, low, high, independent=independent), per_s]
    outcome = measure.compare(least_missed, most_missed, 1 - limit)
    bounds = measure.between(f"{low:.2%}", f"{high:.2%}", measure.worth(n, independent))
    against = measure.verdict_on(outcome, f"{limit:.2%}")
    sentence = f"goodput is {value:.2%}{bounds}, {met} of {n} requests met every latency limit, {against}"
    return [Measure("goodput", value, low, high, limit, outcome, sentence, independent), per_s]


def meets(sample: Sample, loosest: Mapping[str, tuple[int, float]]) -> bool:
    """Say whether one request was answered within the `loosest` limit of each latency (`Sla.loosest_limits`).

    Of its inter-token latencies as many must lie within as that limit's percentile says.
    """
    if not sample.ok:
        return False
    whole = loosest.get("")
    if whole and whole_ms(sample) > whole[1]:
        return False
    return not isinstance(sample, GenerateSample) or _flows(sample, loosest)


def _flows(sample: GenerateSample, loosest: Mapping[str, tuple[int, float]]) -> bool:
    first, between, pace = (loosest.get(latency) for latency in ("ttft_", "itl_", "tpot_"))
    if first and (sample.ttft_ms is None or sample.ttft_ms > first[1]):
        return False
    if pace and (tpot_ms(sample) or 0) > pace[1]:
        return False
    gaps = sample.itl_ms
    return not (between and gaps) or 100 * sum(gap <= between[1] for gap in gaps) >= between[0] * len(gaps)


def achieved_rate(samples: Sequence[Sample], judged: int, window: tuple[float, float], sla: Sla) -> Measure:
    """Return the answers that came within the window, over the requests intended in it.

    In steady flow as many answers of the warm-up come in at the front as are still out at the end; a growing
    backlog is missing at the end.
    """
    begin, end = window
    answered = sum(sample.ok and begin <= sample.finished_s < end for sample in samples)
    limit, value = sla.min_achieved_rate, answered / judged
    found = f"{value:.1%} of the offered rate, {answered} answers for {judged} requests"
    return measure.at_least("achieved_rate", value, limit, found, f"{limit or 0:.1%}")


def output_tokens_per_s(judged: Sequence[GenerateSample], window: tuple[float, float], sla: Sla) -> Measure:
    """Return the output tokens of good requests that came within the window, over its length.

    What a request that was intended in the window gets after its end is not counted: at a rate near the limit, make
    the window long against one answer.
    """
    begin, end = window
    good = [sample for sample in judged if sample.ok]
    tokens = sum(new for sample in good for at, new in sample.arrivals if at < end)
    limit, value = sla.min_output_tokens_per_s, tokens / (end - begin)
    found = f"{value:.1f} tokens/s, {tokens} tokens in {end - begin:g} s"
    return measure.at_least("output_tokens_per_s", value, limit, found, f"{limit or 0:g} tokens/s")


def input_tokens_per_s(judged: Sequence[Sample], window_s: float) -> list[Measure]:
    """Return the input tokens of good requests over the window's length; nothing where no answer told them."""
    tokens = [_tokens_in(sample) for sample in judged if sample.ok]
    told = [count for count in tokens if count is not None]
    return [Measure("input_tokens_per_s", sum(told) / window_s)] if told else []


def normalized_latency(judged: Sequence[GenerateSample]) -> list[Measure]:
    """Return the mean over good requests of the whole answer's latency over its output tokens.

    The normalised latency of Yu et al., Orca, 2022, and of Kwon et al., PagedAttention, 2023.
    """
    values = [sample.latency_ms / sample.tokens_out for sample in judged if sample.ok and sample.tokens_out]
    return [Measure("normalized_latency_ms", statistics.fmean(values))] if values else []


def _tokens_in(sample: Sample) -> int | None:
    if isinstance(sample, GenerateSample):
        return sample.tokens_in
    return sample.tokens if isinstance(sample, EmbedSample) else None


def _share(hits: Sequence[bool], alphas: Alphas) -> tuple[float, float, int]:
    """Bounds of the share of `hits`, and how many independent requests they stand on.

    They are read from the hits alone: latencies may drift where nothing fails. So clusters of hits show only in a run
    that holds some; where there is no hit, requests count in full.
    """
    independent = effective_size(hits)
    low, high = intervals.share(sum(hits), len(hits), independent, *alphas)
    return low, high, independent
