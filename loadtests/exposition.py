"""A verdict in Prometheus' text format, for a textfile collector or a push gateway. Pure.

A gauge a measure, in base units: `p95_ms` is `tritonyard_loadtest_latency_p95_seconds`. The label `bound` says which
number of it: `value`, the `low` and `high` of its interval, and the `limit`, each where there is one.
"""

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from loadtests.measure import Measure, Outcome
from loadtests.verdict import Verdict

PREFIX = "tritonyard_loadtest"


def to_text(verdict: Verdict) -> str:
    """Return the metrics, every one with the label `scenario`."""
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
    for measure in verdict.measures:
        _add(registry, verdict.name, measure)
    return generate_latest(registry).decode()


def _add(registry: CollectorRegistry, scenario: str, measure: Measure) -> None:
    name, scale = measure.name, 1.0
    if name.endswith("_ms"):
        name, scale = name.removesuffix("_ms") + "_seconds", 1e-3
    if name[0] == "p":  # the percentiles of the whole answer are named after nothing else
        name = f"latency_{name}"
    gauge = _gauge(registry, name, f"{measure.name} of the judged requests", "bound")
    for bound in ("value", "low", "high", "limit"):
        number = getattr(measure, bound)
        if number is not None:
            gauge.labels(scenario, bound).set(number * scale)


def _gauge(registry: CollectorRegistry, name: str, documentation: str, label: str) -> Gauge:
    return Gauge(f"{PREFIX}_{name}", documentation, ["scenario", label], registry=registry)
