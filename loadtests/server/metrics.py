"""What the server's own metrics page told of a run: RUN/server.json, and how it comes of readings of the page.

Counters by how much they grew from the first reading to the last, gauges as series. Nothing is worked out from them
here (`loadtests.server.side` does), and no verdict hangs on them: what could not be read is a sentence in `troubles`.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from ensembles.declaration import Declared
from loadtests.samples import Seconds, write_whole
from loadtests.server.snapshot import Key, Snapshot, fallen, grown

SERVER = "server.json"

MEND = "say where the server's own metrics are with --metrics-url"


@dataclass(frozen=True)
class Reading:
    """The page as it was `at_s` seconds after the schedule's zero, in the middle of the `took_ms` that reading took."""

    at_s: float
    took_ms: float
    snapshot: Snapshot


class Counter(Declared):
    """One counter, and by how much it grew from the first reading to the last."""

    name: str
    labels: dict[str, str]
    grown: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Gauge(Declared):
    """One gauge: its value at each reading, None where the page did not have it."""

    name: str
    labels: dict[str, str]
    values: tuple[float | None, ...]


class ServerMetrics(Declared):
    """What was read at `url`, at `times_s` in seconds of the schedule; what is wrong with it in sentences.

    `reading_ms` is the median time of one reading, `cpu_s` the processor time that all of them took of the machine
    that the load test runs on.
    """

    url: str
    times_s: tuple[Seconds, ...] = ()
    reading_ms: float | None = None
    cpu_s: float = 0.0
    counters: tuple[Counter, ...] = ()
    gauges: tuple[Gauge, ...] = ()
    troubles: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_a_value_a_reading(self) -> Self:
        if any(len(gauge.values) != len(self.times_s) for gauge in self.gauges):
            raise ValueError("every gauge must have as many values as there are times_s")
        return self


def fold(url: str, readings: Sequence[Reading], failures: Sequence[str], cpu_s: float) -> ServerMetrics:
    """Return what `readings`, in their order, tell; `failures` are the reasons why others failed."""
    restart = _restart(readings)
    whole = len(readings) > 1 and not restart
    growth = grown(readings[0].snapshot, readings[-1].snapshot) if whole else {}
    names = sorted({key for reading in readings for key in reading.snapshot.gauges})
    return ServerMetrics(
        url=url,
        times_s=tuple(round(reading.at_s, 4) for reading in readings),
        reading_ms=round(statistics.median(reading.took_ms for reading in readings), 3) if readings else None,
        cpu_s=round(cpu_s, 4),
        counters=tuple(Counter(name=name, labels=dict(of), grown=value) for (name, of), value in growth.items()),
        gauges=tuple(_gauge(key, readings) for key in names),
        troubles=(*_unread(url, len(readings), failures), *restart),
    )


def _gauge(key: Key, readings: Sequence[Reading]) -> Gauge:
    name, labels = key
    return Gauge(name=name, labels=dict(labels), values=tuple(each.snapshot.gauges.get(key) for each in readings))


def _unread(url: str, read: int, failures: Sequence[str]) -> list[str]:
    """What was not read, and why."""
    if not read:
        reason = failures[-1] if failures else "the run had ended before"
        return [f"the metrics page {url} could not be read: {reason}; {MEND}"]
    if failures:
        return [f"{len(failures)} of {read + len(failures)} readings of {url} failed, the last one: {failures[-1]}"]
    return [f"{url} was read only once, and to see a counter grow takes two readings"] if read == 1 else []


def _restart(readings: Sequence[Reading]) -> list[str]:
    """A counter that falls began anew: how much it grew in all is not known, nor of those beside it."""
    for before, after in itertools.pairwise(readings):
        key = fallen(before.snapshot, after.snapshot)
        if key:
            name, labels = key
            of = f" of {dict(labels)['model']}" if "model" in dict(labels) else ""
            return [
                f"the server or a model of it began anew between {before.at_s:.1f} s and {after.at_s:.1f} s, where "
                f"{name}{of} fell; so its counters do not tell the whole window"
            ]
    return []


def write_server(directory: Path, metrics: ServerMetrics) -> None:
    """Write server.json, through a temporary name."""
    write_whole(directory / SERVER, metrics.model_dump_json(exclude_defaults=True) + "\n")


def read_server(directory: Path) -> ServerMetrics | None:
    """Read the server.json of a run, None where it has none; of a damaged one only the trouble is left."""
    path = directory / SERVER
    if not path.is_file():
        return None
    try:
        return ServerMetrics.model_validate_json(path.read_bytes())
    except ValidationError as error:
        return ServerMetrics(url="", troubles=(f"{path} is damaged: {error.errors()[0]['msg']}",))
