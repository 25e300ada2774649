"""The server's own side of a run, worked out from its metrics page (`loadtests.server.metrics`). Pure.

Over the readings' span, from the first to the last one, which is the judged window as far as it was read:

    requests, failed      growth of nv_inference_request_success and _failure, of each model: requests that ended in
                          the span, whoever sent them
    queue_ms, compute_input_ms, compute_infer_ms, compute_output_ms, request_ms
                          growth of nv_inference_..._duration_us over that of nv_inference_request_success: means of
                          a successful request. An ensemble's are the sums over its steps; queue_ms is its own alone
    batch                 growth of nv_inference_count over that of nv_inference_exec_count: rows an execution
    a distribution        a histogram's growth: observations, their mean, quantiles by the rule of
                          `loadtests.server.histogram`
    a level               a gauge's mean and maximum over the readings
    a count               growth of any other counter, and that over the span's length

Triton counts what has ended. A decoupled model has ended with a request when its execute() has returned, long before
its last response: of a generating engine only its own metrics tell how long streams take (the `tritonyard_` ones,
which count a stream when it ends).

Whether the page is the server's that answered is held against the samples: the ensemble must have counted at least
the good requests that lie within the span, and at most those that touch it, or others called it too.
"""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtests.samples import EmbedSample, Run, Sample
from loadtests.server.histogram import Quantile, quantile
from loadtests.server.metrics import MEND, Counter, ServerMetrics

TRITON = "nv_"
INFERENCE = "nv_inference_"
DURATIONS = ("request", "queue", "compute_input", "compute_infer", "compute_output")
PERCENTILES = (50, 95, 99)
# How the names of gauges end that say where requests are.
QUEUES = {
    "requests_running": "running in the engine",
    "requests_waiting": "waiting in the engine",
    "nv_inference_pending_request_count": "waiting for a model",
}
# By how much a busy machine may count after it has answered, and a reading be dated wrong.
BORDER_S = 0.25


@dataclass(frozen=True)
class ModelLoad:
    """What one model did; times in milliseconds a successful request, None without one."""

    model: str
    requests: int
    failed: int
    batch: float | None
    request_ms: float | None
    queue_ms: float | None
    compute_input_ms: float | None
    compute_infer_ms: float | None
    compute_output_ms: float | None


@dataclass(frozen=True)
class Distribution:
    """What one histogram observed, in its own unit."""

    name: str
    labels: Mapping[str, str]
    count: int
    mean: float
    quantiles: Mapping[int, Quantile]


@dataclass(frozen=True)
class Level:
    """One gauge over the readings."""

    name: str
    labels: Mapping[str, str]
    mean: float
    highest: float


@dataclass(frozen=True)
class Count:
    """By how much one counter grew, in all and a second."""

    name: str
    labels: Mapping[str, str]
    total: float
    per_s: float


@dataclass(frozen=True)
class ServerSide:
    """All that is shown of the server's own side; `remarks` say in sentences what is wrong with it."""

    url: str
    begin_s: float
    end_s: float
    models: tuple[ModelLoad, ...]
    distributions: tuple[Distribution, ...]
    levels: tuple[Level, ...]
    counts: tuple[Count, ...]
    remarks: tuple[str, ...]


def server_side(metrics: ServerMetrics, run: Run, samples: Sequence[Sample]) -> ServerSide:
    """Return what `metrics` say of the server during `run`."""
    begin_s, end_s = (metrics.times_s[0], metrics.times_s[-1]) if metrics.times_s else (0.0, 0.0)
    models = _models(metrics.counters)
    foreign, remarks = _compare(models, run, samples, (begin_s, end_s), metrics)
    if foreign:
        models, metrics = (), metrics.model_copy(update={"counters": (), "gauges": ()})
    return ServerSide(
        url=metrics.url,
        begin_s=begin_s,
        end_s=end_s,
        models=models,
        distributions=_distributions(metrics.counters),
        levels=_levels(metrics),
        counts=_counts(metrics.counters, end_s - begin_s),
        remarks=(*metrics.troubles, *remarks),
    )


def _models(counters: Sequence[Counter]) -> tuple[ModelLoad, ...]:
    """The models that had requests. Versions, GPUs and reasons of failure are summed up."""
    grown: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for counter in counters:
        if counter.name.startswith(INFERENCE) and "model" in counter.labels:
            grown[counter.labels["model"]][counter.name.removeprefix(INFERENCE)] += counter.grown
    loads = (_load(model, of) for model, of in sorted(grown.items()))
    return tuple(load for load in loads if load.requests or load.failed)


def _load(model: str, of: Mapping[str, float]) -> ModelLoad:
    done, executed = of["request_success"], of["exec_count"]
    means = {f"{part}_ms": of[f"{part}_duration_us"] / 1000 / done if done else None for part in DURATIONS}
    batch = of["count"] / executed if executed else None
    return ModelLoad(model, int(done), int(of["request_failure"]), batch, **means)


def _distributions(counters: Sequence[Counter]) -> tuple[Distribution, ...]:
    """The histograms that observed anything."""
    parts: dict[str, dict[tuple[tuple[str, str], ...], list[Counter]]] = defaultdict(lambda: defaultdict(list))
    for counter in counters:
        name, _, part = counter.name.rpartition("_")
        if part in {"bucket", "sum", "count"}:
            labels = tuple((key, value) for key, value in counter.labels.items() if key != "le")
            parts[name][labels].append(counter)
    found = (_distribution(name, dict(labels), of) for name, by in parts.items() for labels, of in by.items())
    return tuple(each for each in found if each)


def _distribution(name: str, labels: Mapping[str, str], of: Sequence[Counter]) -> Distribution | None:
    buckets = sorted((float(each.labels["le"]), each.grown) for each in of if "le" in each.labels)
    totals = {each.name.removeprefix(f"{name}_"): each.grown for each in of if "le" not in each.labels}
    quantiles = {percentile: quantile(buckets, percentile) for percentile in PERCENTILES}
    known = {percentile: each for percentile, each in quantiles.items() if each}
    if not known or not totals.get("count") or "sum" not in totals:
        return None
    return Distribution(name, labels, int(totals["count"]), totals["sum"] / totals["count"], known)


def _levels(metrics: ServerMetrics) -> tuple[Level, ...]:
    """The gauges that were ever above 0; of Triton's own those that moved, since the others are the machine's size."""
    levels = []
    for gauge in metrics.gauges:
        values = [value for value in gauge.values if value is not None]
        moved = len(set(values)) > 1 or not gauge.name.startswith(TRITON)
        if moved and max(values, default=0.0) > 0:
            levels.append(Level(gauge.name, gauge.labels, statistics.fmean(values), max(values)))
    return tuple(levels)


def queues(metrics: ServerMetrics) -> dict[str, list[tuple[float, float]]]:
    """Return how many requests were where, as (seconds of the schedule, requests), of those that held any.

    Summed over models: those that an engine runs, those that wait in it, those that wait before a model of Triton's.
    """
    sums: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for gauge in metrics.gauges:
        place = next((place for suffix, place in QUEUES.items() if gauge.name.endswith(suffix)), None)
        for at_s, value in zip(metrics.times_s, gauge.values, strict=True):
            if place and value is not None:
                sums[place][at_s] += value
    return {place: sorted(of.items()) for place, of in sums.items() if any(of.values())}


def _counts(counters: Sequence[Counter], span_s: float) -> tuple[Count, ...]:
    """The counters that grew, but for histograms and what `_models` tells."""
    histograms = {counter.name.removesuffix("_bucket") for counter in counters if "le" in counter.labels}
    parts = {f"{name}_{part}" for name, part in itertools.product(histograms, ("bucket", "sum", "count"))}
    return tuple(
        Count(counter.name, counter.labels, counter.grown, counter.grown / span_s)
        for counter in counters
        if counter.grown and counter.name not in parts and not counter.name.startswith(INFERENCE)
    )


def _compare(
    models: Sequence[ModelLoad],
    run: Run,
    samples: Sequence[Sample],
    span: tuple[float, float],
    metrics: ServerMetrics,
) -> tuple[bool, list[str]]:
    """Hold the page against the samples: is it another server's, and what else does not fit."""
    if metrics.troubles and not metrics.counters:
        return False, []
    counted = {load.model: load.requests + load.failed for load in models}
    model_of = {share.name: share.request.model for share in run.scenario.shares}
    remarks = []
    for model in sorted(set(model_of.values())):
        own = [sample for sample in samples if sample.kind is None or model_of[sample.kind] == model]
        least, most = bounds(own, span)
        number = counted.get(model, 0)
        if least and not number:
            return True, [
                f"{metrics.url} counted no request of {model} while it answered {least} of this run's: it is another "
                f"server's; {MEND}"
            ]
        if number < least:
            remarks.append(
                f"{metrics.url} counted {number} requests of {model} while {least} of this run's were answered: it is "
                "one of several servers"
            )
        elif number > most:
            remarks.append(
                f"{metrics.url} counted {number} requests of {model} while this run had at most {most} on their way: "
                "others called it too"
            )
    return False, remarks


def bounds(samples: Sequence[Sample], span: tuple[float, float]) -> tuple[int, int]:
    """Return how many requests the server must have counted within `span`, and how many it can have counted.

    The SDK may cut a request of n texts into up to n.
    """
    begin_s, end_s = span
    inside = [s for s in samples if s.ok and begin_s + BORDER_S <= s.started_s and s.finished_s <= end_s - BORDER_S]
    touching = [s for s in samples if s.finished_s >= begin_s - BORDER_S and s.started_s <= end_s + BORDER_S]
    return len(inside), sum(s.texts if isinstance(s, EmbedSample) else 1 for s in touching)
