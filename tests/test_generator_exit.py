"""Twenty Locust runs, of every kind four in a row: each ends by itself, on time, and leaves nothing behind."""

import threading

import psutil
import pytest
from fake_triton import fake_triton

from loadtests import samples
from loadtests.judging.verdict import Outcome
from loadtests.reports import report
from loadtests.traffic.run import run

pytestmark = pytest.mark.load

EMBED = 'task = "embed", model = "minilm"'
STREAM = 'task = "generate", model = "smollm2", output_tokens = 6'
# What one run is: request, workers, is the server killed.
KINDS = {
    "unary": (EMBED, 1, False),
    "stream": (STREAM, 1, False),
    "killed": (EMBED, 1, True),
    "killed stream": (STREAM, 1, True),
    "workers": (EMBED, 2, False),
}
TURNS = 4


def a_scenario(tmp_path, request):
    path = tmp_path / "short.toml"
    path.write_text(f"""
        arrivals = {{ process = "constant", rate = 40, duration_s = 1 }}
        request = {{ {request}, timeout_s = 1 }}
        sla = {{ p50_ms = 900, min_achieved_rate = 0.7, max_lag_ms = 500 }}
    """)
    return path


def ends_by_itself(tmp_path, request, workers, is_killed):
    """One run; `run` raises where Locust must be killed, or breaks."""
    killed = threading.Event()

    def kill(done_s, _):
        if is_killed and done_s > 0 and not killed.is_set():
            killed.set()
            server.kill()

    with fake_triton(latency_s=0.02, delta_s=0.02) as server:
        directory = run(a_scenario(tmp_path, request), server.url, tmp_path / "runs", kill, 15, workers)
    found, taken = samples.read_run(directory)
    assert len(taken) == found.scheduled == 40
    verdict = report.judge_run(directory)
    assert (verdict.outcome is Outcome.FAIL) == killed.is_set() == is_killed, verdict.reasons
    assert (sum(verdict.errors.values()) > 12) == is_killed
    assert not [child for child in psutil.Process().children(recursive=True) if "locust" in child.cmdline()]


@pytest.mark.parametrize(("request_", "workers", "is_killed"), KINDS.values(), ids=KINDS)
def test_runs_in_a_row_end_by_themselves(tmp_path, request_, workers, is_killed):
    for _ in range(TURNS):
        ends_by_itself(tmp_path, request_, workers, is_killed)
