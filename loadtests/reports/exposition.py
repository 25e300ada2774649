"""A verdict in Prometheus' text format, for a textfile collector or a push gateway. Pure.

A gauge a measure, in base units: `p95_ms` is `tritonyard_loadtest_latency_p95_seconds`. The label `bound` says which
number of it: `value`, the `low` and `high` of its interval, and the `limit`, each where there is one; `kind`
names the requests of a mix that were measured, and is empty for all of them. What the server itself told is in gauges
that begin with `tritonyard_loadtest_server_`.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from loadtests.judging.measure import Measure, Outcome
from loadtests.judging.verdict import Verdict
from loadtests.server.side import DURATIONS, ServerSide
from loadtests.server.table import owner

PREFIX = "tritonyard_loadtest"


def to_text(verdict: Verdict, server: ServerSide | None = None) -> str:
    """Return the metrics of a verdict and of the `server`'s own side, every one with the label `scenario`."""
    registry = CollectorRegistry()
    outcomes = _gauge(registry, "outcome", "1 for what the load test proved, 0 for the others", "outcome")
    for outcome in Outcome:
        outcomes.labels(verdict.name, outcome.value).set(outcome is verdict.outcome)
    requests = _gauge(registry, "requests", "Requests that were judged, and that the warm-up cut", "part")
    requests.labels(verdict.name, "judged").set(verdict.judged)
    requests.labels(verdict.name, "cut").set(verdict.cut)
    errors = _gauge(registry, "errors", "Judged requests that failed, by the class of the error", "error")
    for kind, count in verdict.errors.items():
        errors.labels(verdict.name, kind).set(count)
    for name in dict.fromkeys(measure.name for measure in verdict.measures):
        _add(registry, verdict.name, [measure for measure in verdict.measures if measure.name == name])
    if server:
        _add_server(registry, verdict.name, server)
    return generate_latest(registry).decode()


def _add(registry: CollectorRegistry, scenario: str, measures: Sequence[Measure]) -> None:
    """A gauge for the measures of one name: of all requests, and of kinds."""
    name = key = measures[0].name
    scale = 1.0
    if name.endswith("_ms"):
        name, scale = name.removesuffix("_ms") + "_seconds", 1e-3
    if name[0] == "p":  # the percentiles of the whole answer are named after nothing else
        name = f"latency_{name}"
    gauge = _gauge(registry, name, f"{key} of the judged requests", "kind", "bound")
    for measure in measures:
        for bound in ("value", "low", "high", "limit"):
            number = getattr(measure, bound)
            if number is not None:
                gauge.labels(scenario, measure.kind or "", bound).set(number * scale)


def _add_server(registry: CollectorRegistry, scenario: str, server: ServerSide) -> None:
    requests = _gauge(registry, "server_requests", "Requests that ended in the judged window", "model", "result")
    for load in server.models:
        requests.labels(scenario, load.model, "success").set(load.requests)
        requests.labels(scenario, load.model, "failure").set(load.failed)
    for part in DURATIONS:
        mean = _gauge(registry, f"server_{part}_seconds", f"Mean {part} time of a successful request", "model")
        for load in server.models:
            value = getattr(load, f"{part}_ms")
            if value is not None:
                mean.labels(scenario, load.model).set(value * 1e-3)
    documentation = "Quantiles of the server's histograms over the judged window, in the unit of the metric's name"
    gauge = _gauge(registry, "server_quantile", documentation, "metric", "of", "quantile")
    for each in server.distributions:
        for percentile, found in each.quantiles.items():
            gauge.labels(scenario, each.name, owner(each.labels), f"{percentile / 100:g}").set(found.value)


def _gauge(registry: CollectorRegistry, name: str, documentation: str, *labels: str) -> Gauge:
    return Gauge(f"{PREFIX}_{name}", documentation, ["scenario", *labels], registry=registry)
