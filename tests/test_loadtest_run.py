"""Real Locust runs against a fake server on a real socket."""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time

import psutil
import pytest
from fake_triton import fake_triton

from ensembles.declaration import DeclarationError
from loadtests import report, samples
from loadtests.run import LOCUSTFILE, run
from loadtests.samples import RunError
from loadtests.verdict import Outcome

pytestmark = pytest.mark.load

NOWHERE = "grpc://127.0.0.1:9"


def a_scenario(tmp_path, *, rate=40, duration_s=3, timeout_s=2, warmup_s=0.5):
    path = tmp_path / "short.toml"
    path.write_text(f"""
        arrivals = {{ process = "constant", rate = {rate}, duration_s = {duration_s}, warmup_s = {warmup_s} }}
        request = {{ task = "embed", model = "minilm", timeout_s = {timeout_s} }}
        sla = {{ p95_ms = 400, max_error_rate = 0.05, min_achieved_rate = 0.9, max_lag_ms = 200 }}
    """)
    return path


def a_generate_scenario(tmp_path, *, stream="true", limits="p95_ms = 1500"):
    """24 answers of 6 tokens in 3 s, the first 4 of them warm-up."""
    path = tmp_path / "tokens.toml"
    path.write_text(f"""
        arrivals = {{ process = "constant", rate = 8, duration_s = 3, warmup_s = 0.5 }}
        request = {{ task = "generate", model = "smollm2", output_tokens = 6, timeout_s = 3, stream = {stream} }}
        sla = {{ {limits}, max_lag_ms = 200 }}
    """)
    return path


def judged(directory):
    """The samples after the warm-up."""
    return [sample for sample in samples.read_run(directory)[1] if sample.intended_s >= 0.5]


def nothing_left():
    """No process that a test started is alive."""
    return not [child for child in psutil.Process().children(recursive=True) if "locust" in child.cmdline()]


def test_a_good_server_passes(tmp_path):
    seen = []
    with fake_triton(latency_s=0.02) as server:
        directory = run(a_scenario(tmp_path), server.url, tmp_path / "runs", on_progress=lambda *now: seen.append(now))
    found, taken = samples.read_run(directory)
    assert found.scheduled == len(taken) == 120
    assert {sample.intended_s for sample in taken} == {round(index / 40, 6) for index in range(120)}
    verdict = report.judge_run(directory)
    assert (verdict.outcome, verdict.errors) == (Outcome.PASS, {}), verdict.reasons
    # The planted latency is a floor; the median stays near it even on a busy machine.
    latencies = [sample.latency_ms for sample in taken if sample.intended_s >= 0.5]
    assert min(latencies) >= 20
    assert statistics.median(latencies) < 80
    assert found.name == "short"
    assert {"python", "locust", "tritonclient"} <= set(found.versions)
    assert sorted(path.name for path in directory.iterdir()) == ["locust.log", "run.json", "samples.jsonl"]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert 1 < seen[-1][0] <= seen[-1][1] == 3
    assert nothing_left()


def test_a_stall_shows_in_full(tmp_path):
    # From 1 s to 2 s the server answers nobody. 40 requests are intended in that second; they wait from nearly
    # 1 s down to nothing. A closed loop would have sent one of them.
    with fake_triton(latency_s=0.02, stall_at_s=1, stall_s=1) as server:
        directory = run(a_scenario(tmp_path), server.url, tmp_path / "runs")
    _, taken = samples.read_run(directory)
    waited = sorted((sample.latency_ms for sample in taken if sample.latency_ms > 200), reverse=True)
    assert all(sample.ok for sample in taken)
    # The fake's clock starts with the first request, and the first one that is caught comes up to a gap (25 ms)
    # after the stall began.
    assert 970 <= waited[0] < 1300
    assert 28 <= len(waited) <= 44
    verdict = report.judge_run(directory)
    assert verdict.outcome is Outcome.FAIL
    assert "p95_ms" in verdict.reasons[0]


def test_errors_are_counted(tmp_path):
    with fake_triton(error_every=3) as server:
        verdict = report.judge_run(run(a_scenario(tmp_path), server.url, tmp_path / "runs"))
    assert verdict.outcome is Outcome.FAIL
    assert 30 <= sum(verdict.errors.values()) <= 36  # every third of the 100 that are judged
    assert any(reason.startswith("error_rate is 3") for reason in verdict.reasons)


STREAM_LIMITS = "p50_ms = 900, ttft_p50_ms = 400, itl_p50_ms = 90, min_output_tokens_per_s = 30"


@pytest.mark.parametrize(("delta_tokens", "deltas"), [(1, 6), (3, 2)])
def test_tokens_are_timed_as_they_come(tmp_path, delta_tokens, deltas):
    delta_s = 0.05 * delta_tokens
    with fake_triton(latency_s=0.15, delta_s=delta_s, delta_tokens=delta_tokens) as server:
        directory = run(a_generate_scenario(tmp_path, limits=STREAM_LIMITS), server.url, tmp_path / "runs")
    taken = judged(directory)
    assert {(sample.ok, sample.tokens_in, sample.tokens_out) for sample in taken} == {(True, 7, 6)}
    assert {len(sample.deltas) for sample in taken} == {deltas}
    # What is planted is a floor; the median stays near it even on a busy machine.
    firsts = [sample.ttft_ms for sample in taken]
    assert min(firsts) >= 150
    assert statistics.median(firsts) < 220
    assert 45 < statistics.median(gap for sample in taken for gap in sample.itl_ms) < 65
    wholes = [sample.latency_ms for sample in taken]
    assert min(wholes) >= 150 + 1000 * delta_s * (deltas - 1)
    verdict = report.judge_run(directory)
    assert verdict.outcome is Outcome.PASS, verdict.reasons
    # 20 answers of 6 tokens in 2.5 s, less what the last of them still get after the end.
    rate = next(measure.value for measure in verdict.measures if measure.name == "output_tokens_per_s")
    assert 36 < rate <= 48


def test_a_stream_that_breaks_off_is_a_failed_request(tmp_path):
    with fake_triton(delta_s=0.02, error_every=3) as server:
        directory = run(
            a_generate_scenario(tmp_path, limits="ttft_p50_ms = 900, max_error_rate = 0.1"), server.url, tmp_path
        )
    failed = [sample for sample in judged(directory) if not sample.ok]
    assert {(sample.error, sample.tokens_out) for sample in failed} == {("ServerFailed", 3)}
    verdict = report.judge_run(directory)
    assert verdict.outcome is Outcome.FAIL
    assert 6 <= verdict.errors["ServerFailed"] <= 7  # every third of the 20 that are judged
    assert verdict.reasons[0].startswith("error_rate is 3")


def test_an_answer_of_another_length_is_a_failed_request(tmp_path):
    with fake_triton(short_by=1) as server:
        verdict = report.judge_run(run(a_generate_scenario(tmp_path), server.url, tmp_path / "runs"))
    assert verdict.errors == {"WrongLength": 20}


def test_an_answer_that_is_not_streamed_comes_at_once(tmp_path):
    with fake_triton(latency_s=0.1, delta_s=0.02) as server:
        directory = run(a_generate_scenario(tmp_path, stream="false"), server.url, tmp_path / "runs")
    taken = judged(directory)
    assert all(sample.ok for sample in taken)
    assert {(len(sample.deltas), sample.tokens_out) for sample in taken} == {(1, 6)}
    assert min(sample.latency_ms for sample in taken) >= 100 + 5 * 20
    names = {measure.name for measure in report.judge_run(directory).measures}
    assert "output_tokens_per_s" in names
    assert "ttft_p50_ms" not in names


def test_a_server_killed_in_the_middle_fails_the_run_without_hanging_it(tmp_path):
    with fake_triton(latency_s=0.02) as server:
        killed = threading.Event()

        def kill_in_the_middle(done_s, _):
            if done_s > 1 and not killed.is_set():
                killed.set()
                server.kill()

        begun = time.monotonic()
        directory = run(a_scenario(tmp_path), server.url, tmp_path / "runs", on_progress=kill_in_the_middle)
        took = time.monotonic() - begun
    assert killed.is_set()
    found, taken = samples.read_run(directory)
    assert len(taken) == found.scheduled
    assert any(sample.ok for sample in taken)
    verdict = report.judge_run(directory)
    assert verdict.outcome is Outcome.FAIL
    assert sum(verdict.errors.values()) >= 30
    assert took < 3 + 2 + 15  # duration, timeout, and room for a slow machine to start Python
    assert nothing_left()


def test_a_server_that_never_answers_fails_the_run_within_its_timeout(tmp_path):
    with fake_triton(silent=True) as server:
        begun = time.monotonic()
        directory = run(a_scenario(tmp_path, timeout_s=0.5), server.url, tmp_path / "runs")
        took = time.monotonic() - begun
    _, taken = samples.read_run(directory)
    assert not any(sample.ok for sample in taken)
    assert report.judge_run(directory).outcome is Outcome.FAIL
    assert took < 3 + 0.5 + 15


def test_an_unreachable_server_is_a_fail_with_errors_not_a_crash(tmp_path):
    verdict = report.judge_run(run(a_scenario(tmp_path, duration_s=2), NOWHERE, tmp_path / "runs"))
    assert verdict.outcome is Outcome.FAIL
    assert sum(verdict.errors.values()) == verdict.judged == 60


def test_a_hung_locust_is_killed_and_its_log_kept(tmp_path):
    with fake_triton(silent=True) as server, pytest.raises(RunError) as raised:
        # The traffic alone takes longer than the whole run is given.
        run(a_scenario(tmp_path, timeout_s=1), server.url, tmp_path / "runs", overhead_s=-2)
    assert "Locust had not ended after 2 s and was killed; the log" in str(raised.value)
    (directory,) = (tmp_path / "runs").iterdir()
    assert (directory / "locust.log").exists()
    assert not (directory / "run.json").exists()
    assert nothing_left()


def test_a_generator_that_breaks_says_why(tmp_path):
    with pytest.raises(RunError) as raised:
        run(a_scenario(tmp_path), "gopher://127.0.0.1:9", tmp_path / "runs")
    assert "Locust broke off with exit code 2" in str(raised.value)
    assert "gopher" in str(raised.value)


def test_a_bad_scenario_starts_nothing(tmp_path):
    with pytest.raises(DeclarationError):
        run(tmp_path / "absent.toml", NOWHERE, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_an_interrupt_ends_locust_and_removes_the_unfinished_run(tmp_path):
    def interrupt(done_s, _):
        if done_s > 0.5:
            raise KeyboardInterrupt

    with fake_triton() as server, pytest.raises(KeyboardInterrupt):
        run(a_scenario(tmp_path), server.url, tmp_path / "runs", on_progress=interrupt)
    assert list((tmp_path / "runs").iterdir()) == []
    assert nothing_left()


def test_locusts_own_web_page_serves_the_scenario(tmp_path):
    from urllib.error import URLError
    from urllib.request import urlopen

    with fake_triton() as server, contextlib.closing(_free_port()) as taken:
        port = taken.getsockname()[1]
        taken.close()
        command = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(LOCUSTFILE),
            "--web-port",
            str(port),
            "--autostart",
        ]
        command += ["--users", "1", "--host", server.url, "--scenario", str(a_scenario(tmp_path))]
        process = subprocess.Popen(
            command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, process_group=0
        )
        try:
            page, deadline = "", time.monotonic() + 20
            while "minilm" not in page and time.monotonic() < deadline:
                time.sleep(0.2)
                with contextlib.suppress(URLError):
                    page = urlopen(f"http://127.0.0.1:{port}/stats/requests").read().decode()
            assert "minilm" in page
            process.terminate()
            assert process.wait(10) is not None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _free_port():
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener
