"""One reading of a server's Prometheus metrics page, and what its counters did between two readings. Pure.

Knows nothing of Triton: any page in Prometheus' text format will do.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
# A metric's name, and its labels in the order of their names.
Key = tuple[str, Labels]


@dataclass(frozen=True)
class Snapshot:
    """The finite values on a page. Each bucket of a histogram, its sum and its count are counters."""

    counters: Mapping[Key, float]
    gauges: Mapping[Key, float]


def parse(text: str) -> Snapshot:
    """Return the counters, histograms and gauges of a page; what has another type is passed over.

    Raises ValueError: the text is not in Prometheus' format.
    """
    try:
        families = list(text_string_to_metric_families(text))
    except IndexError as error:  # what the parser makes of some broken lines
        raise ValueError(str(error)) from None
    counters: dict[Key, float] = {}
    gauges: dict[Key, float] = {}
    for family in families:
        for sample in family.samples:
            # The parser gives every counter OpenMetrics' suffix.
            name = sample.name.removesuffix("_total") if family.type == "counter" else sample.name
            key = name, tuple(sorted(sample.labels.items()))
            # The bound of a bucket is a number, or the page is broken.
            float(sample.labels.get("le", 0))
            if not math.isfinite(sample.value):
                continue
            if family.type in ("counter", "histogram"):
                counters[key] = max(sample.value, 0.0)
            elif family.type == "gauge":
                gauges[key] = sample.value
    return Snapshot(counters, gauges)


def fallen(before: Snapshot, after: Snapshot) -> Key | None:
    """Return a counter that is lower `after` than `before`, or gone: the server, or a model of it, began anew."""
    return next((key for key, value in before.counters.items() if after.counters.get(key, -1.0) < value), None)


def grown(before: Snapshot, after: Snapshot) -> dict[Key, float]:
    """Return by how much each counter of `after` grew since `before`; one that is new was 0."""
    return {key: value - before.counters.get(key, 0.0) for key, value in after.counters.items()}
