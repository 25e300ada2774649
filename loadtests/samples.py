"""What a run leaves on disk: samples.jsonl, a line a request, and run.json, which says that the run is whole.

    RUN/locust.log           the generator's own output
    RUN/samples.jsonl.part   while requests are sent: whole lines, readable after a kill
    RUN/samples.jsonl        renamed when the last request is accounted for
    RUN/zero                 while requests are sent: when the schedule began
    RUN/worker-N/            the same of each worker, where there are several, until they are merged
    RUN/server.json          what the server's own metrics told (loadtests.server.metrics)
    RUN/run.json             written last; without it the run is unfinished and nobody judges it

Knows nothing of how samples come about or what they are judged by.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self, TextIO

from pydantic import Field, ValidationError, model_validator

from ensembles.declaration import Declared
from ensembles.errors import YardError
from loadtests.traffic.scenario import Scenario

SAMPLES = "samples.jsonl"
RUN = "run.json"
LOG = "locust.log"
ZERO = "zero"

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=0)]


class RunError(YardError):
    """A load test broke off, or its run on disk is unfinished or damaged: there is nothing to judge."""

    exit_code = 2


class Sample(Declared):
    """What every task's sample has. Times are seconds from the start of the schedule.

    `intended_s` is when the schedule wanted it sent, `started_s` when the generator sent it, `finished_s`
    when it was answered or given up. `error` is the class of the error of a failed request. `kind` names what was
    asked for where the scenario is a mix.
    """

    index: Annotated[int, Field(ge=0)]
    kind: str | None = None
    intended_s: Seconds
    started_s: Seconds
    finished_s: Seconds
    ok: bool
    error: str | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if not self.intended_s <= self.started_s <= self.finished_s:
            raise ValueError("intended_s, started_s and finished_s must ascend")
        if self.ok != (self.error is None):
            raise ValueError("a sample is ok exactly when it has no error")
        return self

    @property
    def latency_ms(self) -> float:
        """Milliseconds from the intended start: a late start counts as waiting."""
        return (self.finished_s - self.intended_s) * 1000

    @property
    def lag_ms(self) -> float:
        """Milliseconds by which the generator itself was late."""
        return (self.started_s - self.intended_s) * 1000


class EmbedSample(Sample):
    """One request of the embed task: of `texts` texts; `tokens` where the answer tells."""

    texts: Annotated[int, Field(ge=1)]
    tokens: int | None = None


class GenerateSample(Sample):
    """One request of the generate task, token by token; a failed request keeps what came before it failed.

    `tokens_in` is the length of the prompt as the server counted it, None when nothing came. `deltas` are
    [seconds, output tokens so far] of each delta, counted by the server and timed when it was received; an answer
    that is not streamed is one delta. Everything else is worked out from them.
    """

    tokens_in: Tokens | None = None
    deltas: tuple[tuple[Seconds, Tokens], ...] = ()

    @model_validator(mode="after")
    def _flows_forwards(self) -> Self:
        times = [self.started_s, *(at for at, _ in self.deltas), self.finished_s]
        counts = [count for _, count in self.deltas]
        if times != sorted(times) or counts != sorted(counts):
            raise ValueError("deltas must ascend, in seconds from started_s to finished_s and in tokens")
        return self

    @property
    def tokens_out(self) -> int:
        """Output tokens that came in all."""
        return self.deltas[-1][1] if self.deltas else 0

    @property
    def arrivals(self) -> list[tuple[float, int]]:
        """When tokens came: (seconds, new tokens) of each delta that brought any."""
        counts = [0, *(count for _, count in self.deltas)]
        pairs = zip(self.deltas, counts[:-1], strict=True)
        return [(at, count - before) for (at, count), before in pairs if count > before]

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: milliseconds from the intended start to the first delta with a token, if one came."""
        return (self.arrivals[0][0] - self.intended_s) * 1000 if self.arrivals else None

    @property
    def itl_ms(self) -> list[float]:
        """Inter-token latencies in milliseconds: n tokens that come g after the ones before are n times g / n.

        The tokens of the first delta have none before them: they count in `ttft_ms`.
        """
        pairs = itertools.pairwise(self.arrivals)
        return [(at - before) * 1000 / new for (before, _), (at, new) in pairs for _ in range(new)]


class Run(Declared):
    """A finished run: everything beside the samples that a verdict needs, and what it was made with.

    `scheduled` is how many samples there must be. `cpu_p95` is the generator's own share of a core, the 95th
    percentile of one-second samples, None in a run too short for one: near 1 it was the bottleneck.
    """

    format: Literal[2] = 2
    id: str
    name: str
    scenario: Scenario
    url: str
    started_at: str
    scheduled: Annotated[int, Field(ge=1)]
    lag_p99_ms: Annotated[float, Field(ge=0)]
    cpu_p95: Annotated[float, Field(ge=0)] | None = None
    versions: dict[str, str]


def in_window(samples: Iterable[Sample], warmup_s: float, duration_s: float) -> list[Sample]:
    """Return the samples that are judged: intended after the warm-up and before the end, in that order."""
    judged = [sample for sample in samples if warmup_s <= sample.intended_s < duration_s]
    return sorted(judged, key=lambda sample: (sample.intended_s, sample.index))


def run_id(name: str) -> str:
    """Return what a run of `name` that begins now is called; ids sort by time."""
    return f"{datetime.now(UTC).strftime('%Y%m%d-%H%M%S-%f')[:-3]}-{name}"


def write_whole(path: Path, text: str) -> Path:
    """Write `text` to `path` through a temporary name beside it: a reader finds all of it, or nothing new."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    return part.rename(path)


class SampleWriter:
    """Appends samples to DIRECTORY/samples.jsonl.part; `finish` gives the file its name."""

    def __init__(self, directory: Path):
        """Open the file. Raises RunError: another generator writes, or wrote, there."""
        self._path = directory / SAMPLES
        self._part = part_of(directory)
        self._zero = directory / ZERO
        if self._path.exists():
            raise RunError(f"{self._path} exists already; give every run its own folder")
        try:
            # Line buffered: a killed run leaves whole lines.
            self._file: TextIO = self._part.open("x", encoding="utf-8", buffering=1)
        except OSError as error:
            raise RunError(f"{self._part} cannot be written: {error.strerror}") from None

    def begin(self, zero: float) -> None:
        """Say that the schedule's 0 s is at `zero` of time.perf_counter, a clock that the machine's processes share."""
        write_whole(self._zero, repr(zero))

    def add(self, sample: Sample) -> None:
        """Append one sample."""
        self._file.write(sample.model_dump_json(exclude_none=True) + "\n")

    def finish(self) -> None:
        """Say that every request is accounted for: the file gets its final name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.rename(self._path)
        self._zero.unlink(missing_ok=True)

    def close(self) -> None:
        """Close without that claim; after `finish`, do nothing."""
        self._file.close()


def worker_directory(directory: Path, place: int, workers: int) -> Path:
    """Return the folder that the worker at `place`, from 0 on, of `workers` writes its samples into, and make it."""
    own = directory if workers == 1 else directory / f"worker-{place}"
    own.mkdir(exist_ok=True)
    return own


def merge_workers(directory: Path, workers: int) -> bool:
    """Make one samples.jsonl of those of several workers; tell whether all of them had finished theirs."""
    if workers > 1:
        folders = [worker_directory(directory, place, workers) for place in range(workers)]
        if not all((folder / SAMPLES).is_file() for folder in folders):
            return False
        part = part_of(directory)
        part.write_bytes(b"".join((folder / SAMPLES).read_bytes() for folder in folders))
        part.rename(directory / SAMPLES)
        for folder in folders:
            shutil.rmtree(folder)
    return (directory / SAMPLES).is_file()


def part_of(directory: Path) -> Path:
    """Return the name that the samples of `directory` have while they are written."""
    return directory / f"{SAMPLES}.part"


def read_zero(directory: Path) -> float | None:
    """Return when the schedule of the run in `directory` begins or began, by time.perf_counter; None: not known yet.

    Workers begin within a few milliseconds of each other: any one of them tells.
    """
    with contextlib.suppress(FileNotFoundError):  # the run has ended in the meantime
        for found in directory.rglob(ZERO):
            return float(found.read_text(encoding="utf-8"))
    return None


def read_samples(path: Path) -> list[EmbedSample | GenerateSample]:
    """Read a samples file, whole or the prefix that a killed run left.

    Raises RunError: the file is missing, a line is no sample, or two lines are the same request.
    """
    samples = list(_parse(path, _lines(path)))
    if len({sample.index for sample in samples}) != len(samples):
        raise RunError(f"{path} holds a request twice; it was written by two generators: run the load test again")
    return samples


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _parse(path: Path, lines: list[str]) -> Iterable[EmbedSample | GenerateSample]:
    for number, line in enumerate(lines, start=1):
        # The key that only one of them has.
        kind: type[EmbedSample] | type[GenerateSample] = EmbedSample if '"texts":' in line else GenerateSample
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            fact = _facts(error)
            raise RunError(f"{path}:{number}: {line[:80]!r} is not a sample: {fact}; run again") from None


def write_run(directory: Path, run: Run) -> None:
    """Write run.json, through a temporary name: from now on the run is whole."""
    write_whole(directory / RUN, run.model_dump_json(indent=1, exclude_none=True) + "\n")


def read_run(directory: Path) -> tuple[Run, Sequence[Sample]]:
    """Read the finished run in `directory`.

    Raises RunError: no run is there, it was broken off, or it is damaged.
    """
    path = directory / RUN
    if not path.is_file():
        unfinished = part_of(directory).exists() or (directory / SAMPLES).exists()
        fact = "was broken off before its end" if unfinished else "holds no run"
        raise RunError(f"{directory} {fact}: {RUN} is missing; run the load test again")
    try:
        run = Run.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(f"{path} is not a run of this version: {_facts(error)}; run the load test again") from None
    return run, read_samples(directory / SAMPLES)


def _facts(error: ValidationError) -> str:
    """Every finding of pydantic in one line: key, then fact."""
    found = ((".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors())
    return ", ".join(f"{key}: {fact}" if key else fact for key, fact in found)
