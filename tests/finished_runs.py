"""Finished load tests on disk, as `yard loadtest` leaves them, without any traffic."""

from pathlib import Path

from loadtests import samples
from loadtests.samples import EmbedSample, Run, SampleWriter
from loadtests.traffic import scenario


def finished_run(
    directory: Path, latency_s: float = 0.02, name: str = "embed_smoke", cpu_p95: float | None = None
) -> Path:
    """Write 144 requests of a scenario, 12 a second, each answered after `latency_s`, and return the folder."""
    directory.mkdir()
    writer = SampleWriter(directory)
    for index in range(144):
        start = round(1 + index / 12, 6)
        times = {"intended_s": start, "started_s": start, "finished_s": round(start + latency_s, 6)}
        writer.add(EmbedSample(index=index, **times, ok=True, texts=1, tokens=9))
    writer.finish()
    run = Run(
        id=directory.name,
        name=name,
        scenario=scenario.load(scenario.locate(name)),
        url="grpc://127.0.0.1:8001",
        started_at="2026-01-01T00:00:00+00:00",
        scheduled=144,
        lag_p99_ms=0.0,
        cpu_p95=cpu_p95,
        versions={},
    )
    samples.write_run(directory, run)
    return directory
