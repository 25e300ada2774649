"""One load test run: Locust as a subprocess over one scenario, and what it leaves in runs/<id>/.

Starts, watches and ends the generator. Judges nothing (`loadtests.reports.report.judge_run` does) and prints nothing.
"""

import importlib.util
import itertools
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from loadtests import samples
from loadtests.judging.verdict import lag_p99_ms
from loadtests.samples import LOG, Run, RunError
from loadtests.server.scraper import scraped
from loadtests.traffic.arrivals import Closed
from loadtests.traffic.cpu import CpuMeter
from loadtests.traffic.scenario import Scenario, load

LOCUSTFILE = Path(__file__).parent.parent / "locustfile.py"
# What Locust may take to start and to exit, beyond the traffic and the last request's timeout.
OVERHEAD_S = 30.0
TERM_S = 5.0
POLL_S = 0.2
LAST_WORDS = ("Shutting down (exit code", "Got quit message from master")
PACKAGES = ("locust", "gevent", "grpcio", "tritonclient", "tritonyard")

Progress = Callable[[float, float], None]


def run(
    scenario_path: Path,
    url: str,
    out: Path,
    on_progress: Progress = lambda done_s, total_s: None,
    overhead_s: float = OVERHEAD_S,
    workers: int = 1,
    metrics_url: str | None = None,
) -> Path:
    """Send the traffic of the scenario at `scenario_path` to `url`; return the run's folder in `out`.

    `on_progress` is called with the seconds of traffic done and in all. Locust is killed when it has not
    ended `overhead_s` after duration and timeout. An interrupt ends Locust and removes the unfinished run. With
    several `workers`, Locust's own master and as many processes share the traffic. What the server itself tells at
    `metrics_url` in the judged window is kept beside the samples.

    Raises DeclarationError, ScenarioError: the scenario is wrong. Raises RunError: Locust is not installed,
    broke, or hung; its folder stays, without run.json, as evidence.
    """
    scenario = load(scenario_path)
    if importlib.util.find_spec("locust") is None:
        raise RunError("load tests need Locust, which is not installed; run pip install -e '.[loadtest]'")
    directory = _new_directory(out, scenario_path.stem)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        command = _command(scenario_path, url, directory, workers)
        window = scenario.arrivals.warmup_s, scenario.arrivals.duration_s
        with scraped(directory, metrics_url, window):
            cpu_p95 = _generate(scenario, command, directory, on_progress, overhead_s, workers)
    except Exception:
        raise
    except BaseException:
        # Interrupted: nobody wants half a run.
        shutil.rmtree(directory)
        raise
    _describe(scenario, scenario_path.stem, url, started_at, cpu_p95, directory)
    return directory


def _new_directory(out: Path, name: str) -> Path:
    """Make runs/<id>."""
    directory = out / samples.run_id(name)
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"{directory} cannot be made: {error.strerror}; choose another folder for runs") from None
    return directory


def _command(scenario_path: Path, url: str, directory: Path, workers: int) -> list[str]:
    shared = ["--processes", str(workers), *_master_port()] if workers > 1 else []
    return [
        *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *shared),
        *("--headless", "--users", str(workers), "--spawn-rate", str(workers), "--only-summary"),
        # Failed requests are the verdict's business: only a broken generator exits with another code than 0.
        *("--exit-code-on-error", "0"),
        *("--host", url, "--scenario-file", str(scenario_path.resolve()), "--run-dir", str(directory.resolve())),
    ]


def _master_port() -> list[str]:
    """A free port for the master to meet its workers at; Locust's own default allows one run at a time."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    return ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]


def _generate(
    scenario: Scenario, command: list[str], directory: Path, on_progress: Progress, overhead_s: float, workers: int
) -> float | None:
    """Run Locust to its end and return its `cpu_p95`. However this is left, no process of it is."""
    log = directory / LOG
    process = _start(command, log)
    limit_s = scenario.arrivals.duration_s + scenario.timeout_s + overhead_s
    try:
        code, cpu = _watch(process, scenario.arrivals.duration_s, limit_s, directory, on_progress)
    finally:
        _end(process)
    if code is None:
        raise RunError(f"Locust had not ended after {limit_s:.0f} s and was killed; {_last_lines(log)}")
    if code != 0 or not samples.merge_workers(directory, workers):
        raise RunError(f"Locust broke off with exit code {code}; {_last_lines(log)}")
    return cpu.p95 if cpu else None


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    # Locust must import the very packages that run here, wherever it is started.
    root = str(LOCUSTFILE.parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH", "")]))
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        )


def _watch(
    process: subprocess.Popen[bytes], total_s: float, limit_s: float, directory: Path, on_progress: Progress
) -> tuple[int | None, CpuMeter | None]:
    """Wait for the end; return the exit code, None after `limit_s`, and the CPU share while requests were sent."""
    begun = time.perf_counter()
    zero, cpu = None, None
    while (now := time.perf_counter()) - begun < limit_s:
        try:
            return process.wait(POLL_S), cpu
        except subprocess.TimeoutExpired:
            zero = samples.read_zero(directory) if zero is None else zero
            done_s = now - zero if zero else 0.0
            # From zero on: to start Python is not to generate.
            if zero and 0 <= done_s < total_s:
                cpu = cpu or CpuMeter(process.pid)
                cpu.sample()
            on_progress(min(max(done_s, 0.0), total_s), total_s)
    return None, cpu


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group of `process`: first asked, then killed."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(TERM_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_lines(log: Path, count: int = 5) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    # What comes after Locust's last words are its tables.
    lines = list(itertools.takewhile(lambda line: not any(words in line for words in LAST_WORDS), lines))
    kept = [line for line in lines if line.strip()][-count:]
    return f"the log {log} ends with:\n" + "\n".join(kept)


def _describe(scenario: Scenario, name: str, url: str, started_at: str, cpu_p95: float | None, directory: Path) -> None:
    """Write run.json: the run is whole."""
    versions = {package: metadata.version(package) for package in PACKAGES}
    taken = samples.read_samples(directory / samples.SAMPLES)
    # How often the users of a closed loop ask is not known ahead: what they asked is all there is.
    scheduled = len(taken) if isinstance(scenario.arrivals, Closed) else len(scenario.schedule())
    description = Run(
        id=directory.name,
        name=name,
        scenario=scenario,
        url=url,
        started_at=started_at,
        scheduled=scheduled,
        lag_p99_ms=lag_p99_ms(taken),
        cpu_p95=cpu_p95,
        versions={"python": platform.python_version(), **versions},
    )
    samples.write_run(directory, description)
