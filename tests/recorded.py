"""A run against the fake server: its samples beside what the server recorded that it sent to each."""

from pathlib import Path

from fake_triton import Running, read_record

from loadtests import samples
from loadtests.samples import Sample
from loadtests.traffic import corpus
from loadtests.traffic.run import run

Sent = list[tuple[Sample, list[float]]]


def recorded_run(scenario: Path, server: Running, record: Path, runs: Path) -> tuple[Path, Sent]:
    """Run `scenario` against `server`, which records; return the run's folder, and its samples with what was sent.

    Each sample comes with the times at which its deltas were sent, in milliseconds from its intended start. Every
    request must have a text of its own, and be answered.
    """
    zeros: list[float | None] = []
    directory = run(scenario, server.url, runs, on_progress=lambda *_: zeros.append(samples.read_zero(runs)))
    (zero,) = {each for each in zeros if each is not None}
    found, taken = samples.read_run(directory)
    sent = {each.text: each for each in read_record(record)}
    assert len(sent) == len(taken), f"{len(taken)} requests were answered with {len(sent)} different answers"
    texts = [call.texts[0] for _, call in zip(taken, corpus.calls(found.scenario), strict=False)]
    return directory, [
        (sample, [1000 * (at - zero - sample.intended_s) for at, _ in sent[texts[sample.index]].deltas])
        for sample in taken
    ]
