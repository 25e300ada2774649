"""`yard capacity` against a fake server on a real socket: what it finds, prints and leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from fake_triton import fake_triton

from loadtests.samples import read_run

YARD = Path(sys.executable).parent / "yard"
# Above the planted capacity a request takes ten times as long.
LATENCY_S = 0.05


def a_scenario(folder, arrivals, sla="p50_ms = 250, max_lag_ms = 2000"):
    path = folder / "mine.toml"
    path.write_text(f"""
        arrivals = {{ {arrivals}, duration_s = 1.5, warmup_s = 0.5 }}
        request = {{ task = "embed", model = "minilm", timeout_s = 5 }}
        sla = {{ {sla} }}
    """)
    return path


@pytest.mark.load
def test_a_planted_capacity_of_6_is_found_as_exactly_6(tmp_path, yard):
    path, runs = a_scenario(tmp_path, "process = 'closed', users = 4"), tmp_path / "runs"
    with fake_triton(latency_s=LATENCY_S, capacity=6) as server:
        code, out, _ = yard("capacity", path, "--url", server.url, "--out", runs)
    assert code == 0
    assert "capacity: users = 6, passed in 3 of " in out
    assert "users = 7 fails: p50_ms is 5" in out
    trials = sorted(folder for folder in runs.iterdir() if not folder.name.endswith("-capacity"))
    users = [read_run(folder)[0].scenario.arrivals.users for folder in trials]
    # On a busy machine one may be undecided, and is tried again.
    assert list(dict.fromkeys(users)) == [4, 8, 6, 7]
    assert len(users) <= 10
    (found,) = runs.glob("*-capacity")
    assert sorted(path.name for path in found.iterdir()) == ["capacity.html", "capacity.json"]
    written = json.loads((found / "capacity.json").read_text())
    assert written | {"load": "users", "capacity": 6, "bound": "server", "outcome": "PASS"} == written
    assert [trial["load"] for trial in written["trials"]] == users
    page = (found / "capacity.html").read_text()
    for trial in trials:
        assert f'href="../{trial.name}/report.html"' in page
        assert (trial / "report.html").is_file()
        assert (trial / "verdict.json").is_file()


@pytest.mark.load
def test_an_interrupt_leaves_finished_trials_and_no_process(tmp_path):
    path, runs = a_scenario(tmp_path, "process = 'constant', rate = 40"), tmp_path / "runs"
    with fake_triton(latency_s=0.01) as server:
        command = [YARD, "capacity", path, "--url", server.url, "--out", runs]
        search = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)
        assert search.stdout.readline().startswith(
            "capacity of mine: rate = 40 requests/s first, then between 5 and 2560"
        )
        assert search.stdout.readline().startswith("rate = 40 requests/s: ")
        # In the middle of the second one. SIGTERM unwinds as Ctrl-C does, and cannot have been ignored by a parent.
        while not list(runs.glob("*/samples.jsonl.part")):
            assert search.poll() is None
            time.sleep(0.05)
        os.kill(search.pid, signal.SIGTERM)
        _, err = search.communicate(timeout=20)
    assert search.returncode == 130
    assert err.endswith("interrupted; nothing half-made was left\n")
    (kept,) = runs.iterdir()
    assert (kept / "verdict.json").is_file()
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(runs) in " ".join(each.info["cmdline"] or [])]


@pytest.mark.load
def test_a_server_that_is_not_there_is_said_before_any_trial(tmp_path, yard):
    path = a_scenario(tmp_path, "process = 'constant', rate = 40")
    code, _, err = yard("capacity", path, "--url", "grpc://127.0.0.1:9", "--out", tmp_path / "runs")
    assert code == 1
    assert "Connection refused" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--least", 2.5], "--least 2.5 is no number of users; give a whole number"),
        (["--most", 0.5], "--most 0.5 is no number of users"),
        (["--least", 9, "--most", 8], "the least load 9 is above the most, 8; lower --least or raise --most"),
        (["--least", 0], "'--least': 0 is no load; give a number above 0"),
        (["--most", "inf"], "'--most': inf is no load"),
        (["--most", "nan"], "'--most': nan is no load"),
    ],
)
def test_a_wrong_span_is_a_usage_error(tmp_path, yard, arguments, words):
    path = a_scenario(tmp_path, "process = 'closed', users = 4")
    code, _, err = yard("capacity", path, *arguments)
    assert (code, words in err) == (2, True), err


def test_a_trace_that_is_too_fast_is_said_before_any_trial(yard):
    code, _, err = yard("capacity", "generate_trace", "--most", 64)
    assert (code, "starts no request after warmup_s = 5" in err) == (2, True), err
