"""The server's own side for readers: lines for a terminal, rows for the page. Prints nothing."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from loadtests.server.histogram import Quantile
from loadtests.server.side import PERCENTILES, ModelLoad, ServerSide

PREFIXES = ("tritonyard_", "nv_inference_", "nv_")
# Suffix of a metric's name -> what its values are multiplied by, how they are written, and in which unit.
UNITS = {
    "_seconds": (1e3, ".1f", " ms"),
    "_ms": (1.0, ".1f", " ms"),
    "_bytes": (1e-6, ",.0f", " MB"),
    "_utilization": (1e2, ".0f", " %"),
}


@dataclass(frozen=True)
class Table:
    """A heading a column, and rows of cells, the first `names` of which say what the numbers in the others are."""

    title: str
    names: int
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def lines(side: ServerSide) -> list[str]:
    """Return what a terminal shows: a line a model, then what engines and machine tell, then what is wrong."""
    found = [_line(load) for load in side.models]
    told = defaultdict(list)
    for each in side.distributions:
        quantiles = ", ".join(f"p{n} {_quantile(each.name, of)}" for n, of in each.quantiles.items())
        told[owner(each.labels)].append(f"{words(each.name)} {quantiles}")
    for level in side.levels:
        if level.name.startswith("nv_inference_"):
            continue  # what waits for a step shows in its queue time
        mean, highest = number(level.name, level.mean), number(level.name, level.highest)
        told[owner(level.labels)].append(f"{words(level.name)} {mean} (at most {highest})")
    found += [f"{of}: {'; '.join(facts)}" for of, facts in told.items()]
    head = [f"server from {side.begin_s:.1f} to {side.end_s:.1f} s, by {side.url}"] if found else []
    return [*head, *(f"  {line}" for line in found), *(f"server: {remark}" for remark in side.remarks)]


def _line(load: ModelLoad) -> str:
    failed = f", {load.failed} failed" if load.failed else ""
    if load.request_ms is None or load.queue_ms is None:
        return f"{load.model}: {load.requests} requests{failed}"
    compute_ms = sum(part or 0.0 for part in (load.compute_input_ms, load.compute_infer_ms, load.compute_output_ms))
    return (
        f"{load.model}: {load.requests} requests{failed}, {load.request_ms:.1f} ms each, of which queue "
        f"{load.queue_ms:.1f} ms and compute {compute_ms:.1f} ms"
    )


def tables(side: ServerSide) -> list[Table]:
    """Return what the page shows, without the tables that would be empty."""
    found = [_models(side), _distributions(side), _levels(side), _counts(side)]
    return [table for table in found if table.rows]


def _models(side: ServerSide) -> Table:
    means = ("request", "queue", "compute input", "compute infer", "compute output")
    head = ("model", "requests", "failed", *means, "rows an execution")
    return Table("Models: means of a successful request", 1, head, tuple(map(_model_row, side.models)))


def _model_row(load: ModelLoad) -> tuple[str, ...]:
    times = (load.request_ms, load.queue_ms, load.compute_input_ms, load.compute_infer_ms, load.compute_output_ms)
    return (
        *(load.model, f"{load.requests}", f"{load.failed}"),
        *("" if time is None else f"{time:.2f} ms" for time in times),
        "" if load.batch is None else f"{load.batch:.2f}",
    )


def _distributions(side: ServerSide) -> Table:
    head = ("metric", "of", "count", "mean", *(f"p{n}" for n in PERCENTILES))
    rows = []
    for each in side.distributions:
        quantiles = [_bounded(each.name, of) for of in each.quantiles.values()]
        rows.append((words(each.name), owner(each.labels), f"{each.count}", number(each.name, each.mean), *quantiles))
    return Table("Distributions: each quantile, and the bucket of the histogram that holds it", 2, head, tuple(rows))


def _levels(side: ServerSide) -> Table:
    rows = [
        (words(each.name), owner(each.labels), number(each.name, each.mean), number(each.name, each.highest))
        for each in side.levels
    ]
    return Table("Levels", 2, ("metric", "of", "mean", "maximum"), tuple(rows))


def _counts(side: ServerSide) -> Table:
    rows = [
        (words(each.name), owner(each.labels), number(each.name, each.total), number(each.name, each.per_s))
        for each in side.counts
    ]
    return Table("Counts", 2, ("metric", "of", "in all", "a second"), tuple(rows))


def words(name: str) -> str:
    """Return the name of a metric as one would say it, without its prefix and its unit."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    unit = next((suffix for suffix in ("_seconds", "_ms", "_bytes") if name.endswith(suffix)), "")
    return name.removesuffix(unit).replace("_", " ")


def number(name: str, value: float) -> str:
    """Return a value of the metric called `name`, in the unit that its name ends with."""
    for suffix, (scale, form, unit) in UNITS.items():
        if name.endswith(suffix):
            return f"{value * scale:{form}}{unit}"
    return f"{value:,.1f}".removesuffix(".0")


def _quantile(name: str, of: Quantile) -> str:
    """The estimate; beyond the last bound nothing is known but that it lies there."""
    return f"over {number(name, of.low)}" if math.isinf(of.high) else number(name, of.value)


def _bounded(name: str, of: Quantile) -> str:
    """The estimate, and the bucket that holds the exact quantile."""
    if math.isinf(of.high):
        return _quantile(name, of)
    scale = next((scale for suffix, (scale, _, _) in UNITS.items() if name.endswith(suffix)), 1.0)
    return f"{number(name, of.value)} in ({of.low * scale:g}, {of.high * scale:g}]"


def owner(labels: Mapping[str, str]) -> str:
    """Return whose a metric is: the model first; what has no label is the machine's."""
    others = [f"{key} {value}" for key, value in labels.items() if key != "model"]
    return ", ".join([labels["model"], *others] if "model" in labels else others) or "the machine"
