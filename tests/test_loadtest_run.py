"""Real Locust runs against a fake server on a real socket."""

import contextlib
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil
import pytest
from fake_kserve import fake_http, said
from fake_triton import fake_triton

from ensembles.declaration import DeclarationError
from loadtests import samples
from loadtests.judging.verdict import Outcome
from loadtests.reports import report
from loadtests.samples import EmbedSample, GenerateSample, RunError
from loadtests.traffic import corpus
from loadtests.traffic.run import LOCUSTFILE, run
from loadtests.traffic.scenario import names

pytestmark = pytest.mark.load

NOWHERE = "grpc://127.0.0.1:9"
TIGHT = "p95_ms = 400, max_error_rate = 0.05"
# For a PASS of 100 requests that a busy machine makes depend on each other, so that few of them count.
LOOSE = "p50_ms = 400, max_error_rate = 0.5"


def a_scenario(tmp_path, *, rate=40, duration_s=3, timeout_s=2, warmup_s=0.5, limits=TIGHT):
    path = tmp_path / "short.toml"
    path.write_text(f"""
        arrivals = {{ process = "constant", rate = {rate}, duration_s = {duration_s}, warmup_s = {warmup_s} }}
        request = {{ task = "embed", model = "minilm", timeout_s = {timeout_s} }}
        sla = {{ {limits}, min_achieved_rate = 0.9, max_lag_ms = 200 }}
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
        path = a_scenario(tmp_path, limits=LOOSE)
        directory = run(path, server.url, tmp_path / "runs", on_progress=lambda *now: seen.append(now))
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
    # From 1.5 s to 3.5 s the server answers nobody. 80 requests are intended in those seconds; they wait from nearly
    # 2 s down to nothing. A closed loop would have sent one of them.
    with fake_triton(latency_s=0.02, stall_at_s=1.5, stall_s=2) as server:
        directory = run(a_scenario(tmp_path, duration_s=4.5, timeout_s=5), server.url, tmp_path / "runs")
    _, taken = samples.read_run(directory)
    assert all(sample.ok for sample in taken)
    assert sum(sample.latency_ms > 200 for sample in taken) >= 65
    verdict = report.judge_run(directory)
    # Of 160 judged requests p99 is the second slowest. The slowest comes up to a gap (25 ms) after the stall began.
    (p99,) = [measure.value for measure in verdict.measures if measure.name == "p99_ms"]
    assert 2000 - 2 * 25 - 20 <= p99 < 2500
    # Requests that waited for the same stall are one piece of evidence: in so short a run not enough for a FAIL.
    assert verdict.outcome is not Outcome.PASS
    assert "p95_ms" in verdict.reasons[0]


def test_errors_are_counted(tmp_path):
    with fake_triton(error_every=3) as server:
        verdict = report.judge_run(run(a_scenario(tmp_path), server.url, tmp_path / "runs"))
    assert verdict.outcome is Outcome.FAIL
    assert 30 <= sum(verdict.errors.values()) <= 36  # every third of the 100 that are judged
    assert any(reason.startswith("error_rate is 3") for reason in verdict.reasons)


def a_closed_scenario(tmp_path, think_s=0.0):
    path = tmp_path / "closed.toml"
    path.write_text(f"""
        arrivals = {{ process = "closed", users = 3, think_s = {think_s}, duration_s = 2.5, warmup_s = 0.5 }}
        request = {{ task = "embed", model = "minilm", timeout_s = 2 }}
        sla = {{ p50_ms = 400, max_error_rate = 0.2, max_lag_ms = 200 }}
    """)
    return path


def test_users_of_a_closed_loop_wait_for_their_answers_and_think(tmp_path):
    with fake_triton(latency_s=0.1) as server:
        directory = run(a_closed_scenario(tmp_path, think_s=0.15), server.url, tmp_path / "runs")
    found, taken = samples.read_run(directory)
    assert found.scheduled == len(taken)
    # 3 users, a request every 0.25 s at most; a machine that is busy allows fewer.
    assert 15 <= len(taken) <= 30
    assert sorted(sample.index for sample in taken) == list(range(len(taken)))
    for sample in taken:
        out = [other for other in taken if other.intended_s <= sample.intended_s < other.finished_s]
        assert len(out) <= 3
    starts = sorted(sample.intended_s for sample in taken)
    ends = sorted(sample.finished_s for sample in taken)
    assert all(start >= end + 0.15 - 1e-3 for start, end in zip(starts[3:], ends, strict=False))
    assert max(starts) < 2.5


def test_a_closed_loop_does_not_see_a_stall_that_an_open_one_sees(tmp_path):
    with fake_triton(latency_s=0.02, stall_at_s=1, stall_s=1) as server:
        directory = run(a_closed_scenario(tmp_path), server.url, tmp_path / "runs")
    _, taken = samples.read_run(directory)
    assert len([sample for sample in taken if sample.latency_ms > 200]) == 3


def a_mix(tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text("""
        arrivals = { process = "constant", rate = 20, duration_s = 2.5, warmup_s = 0.5 }
        sla = { p50_ms = 600, max_error_rate = 0.2, max_lag_ms = 200 }
        [[mix]]
        name = "search"
        weight = 1
        request = { task = "embed", model = "minilm" }
        [[mix]]
        name = "chat"
        weight = 1
        request = { task = "generate", model = "smollm2", output_tokens = 6 }
    """)
    return path


def test_every_sample_of_a_mix_says_its_kind(tmp_path):
    with fake_triton(latency_s=0.02) as server:
        directory = run(a_mix(tmp_path), server.url, tmp_path / "runs")
    found, taken = samples.read_run(directory)
    assert len(taken) == found.scheduled == 50
    assert {(sample.kind, type(sample), sample.ok) for sample in taken} == {
        ("search", EmbedSample, True),
        ("chat", GenerateSample, True),
    }


def test_workers_share_one_schedule(tmp_path):
    with fake_triton(latency_s=0.02) as server:
        directory = run(a_mix(tmp_path), server.url, tmp_path / "runs", workers=2)
    found, taken = samples.read_run(directory)
    assert found.scheduled == len(taken) == 50
    assert {sample.index: sample.intended_s for sample in taken} == {index: index / 20 for index in range(50)}
    # Whoever sends a request: what it asks for is drawn from the scenario's seed.
    kinds = [call.kind for call in itertools.islice(corpus.calls(found.scenario), 50)]
    assert [sample.kind for sample in sorted(taken, key=lambda sample: sample.index)] == kinds
    assert all(sample.ok for sample in taken)
    assert sorted(path.name for path in directory.iterdir()) == ["locust.log", "run.json", "samples.jsonl"]
    assert nothing_left()


def test_a_worker_that_breaks_breaks_the_run(tmp_path):
    with pytest.raises(RunError, match="Locust broke off") as raised:
        run(a_mix(tmp_path), "gopher://127.0.0.1:9", tmp_path / "runs", workers=2)
    assert "gopher" in str(raised.value)
    assert nothing_left()


def test_users_of_a_dead_server_do_not_hammer_it(tmp_path):
    directory = run(a_closed_scenario(tmp_path), NOWHERE, tmp_path / "runs")
    taken = samples.read_run(directory)[1]
    assert 3 <= len(taken) <= 3 * 25  # a tenth of a second apart, for 2.5 s
    assert not any(sample.ok for sample in taken)


def test_the_generator_says_how_much_of_a_core_it_used(tmp_path):
    with fake_triton() as server:
        directory = run(a_scenario(tmp_path), server.url, tmp_path / "runs")
    assert 0 < samples.read_run(directory)[0].cpu_p95 < 2


def test_the_url_says_the_protocol(tmp_path):
    path = a_generate_scenario(tmp_path)
    path.write_text(path.read_text().replace("smollm2", "minilm"))  # what the fake serves
    with fake_http() as server:
        server.write = lambda inputs: (said("a ", "stop" * (count == 6), count) for count in range(1, 7))
        directory = run(path, server.url, tmp_path / "runs")
    taken = samples.read_run(directory)[1]
    assert {(sample.error, sample.tokens_out, len(sample.deltas)) for sample in taken} == {(None, 6, 6)}


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
    assert verdict.outcome is not Outcome.FAIL, verdict.reasons
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


def test_locusts_own_web_page_runs_the_scenario_that_is_chosen_from_its_list(tmp_path):
    with contextlib.closing(_free_port()) as taken:
        port = taken.getsockname()[1]
    page = f"http://127.0.0.1:{port}"
    command = [*(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE)), "--web-port", str(port)]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, process_group=0
    )
    try:
        with fake_triton() as server:
            shown = _seen(page, "embed_smoke")
            assert all(name in shown for name in names())
            chosen = {"user_count": "1", "spawn_rate": "1", "host": server.url, "scenario": "embed_smoke"}
            urlopen(f"{page}/swarm", data=urlencode(chosen).encode()).read()
            _seen(f"{page}/stats/requests", "minilm")
        process.terminate()
        assert process.wait(10) is not None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _seen(url, words):
    """What is at `url` once it holds `words`."""
    text, deadline = "", time.monotonic() + 20
    while words not in text and time.monotonic() < deadline:
        time.sleep(0.2)
        with contextlib.suppress(URLError):
            text = urlopen(url).read().decode()
    assert words in text
    return text


def _free_port():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener
