"""What a load test measures, against what the fake server recorded that it sent, and against a loop without Locust.

A machine that is busy with something else makes everybody late, and says nothing of who measures right. A run whose own
verdict refuses it for that, its generator's lag, is taken again.
"""

import itertools
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from fake_triton import fake_triton
from recorded import recorded_run

from loadtests import samples
from loadtests.reports import report
from loadtests.traffic import corpus
from loadtests.traffic.run import run
from loadtests.traffic.scenario import load

pytestmark = [pytest.mark.load, pytest.mark.alone]

WARMUP_S = 1.0
MAX_LAG_MS = 4
ATTEMPTS = 4
PERCENTILES = (50, 90, 95, 99)
# So many that no two texts are the same: they name the requests in the record.
WORDS = '{ distribution = "uniform", min = 100, max = 200 }'
EMBED = f'task = "embed", model = "minilm", words = {WORDS}'
GENERATE = f'task = "generate", model = "smollm2", output_tokens = 12, prompt = {WORDS}'


def a_scenario(tmp_path, arrivals, request):
    path = tmp_path / "measured.toml"
    path.write_text(f"""
        arrivals = {{ warmup_s = {WARMUP_S}, {arrivals} }}
        request = {{ timeout_s = 10, {request} }}
        sla = {{ p50_ms = 60000, max_lag_ms = {MAX_LAG_MS} }}
    """)
    return path


def assert_measured(directory, kind, sent):
    """Every percentile of the verdict is within 2 ms or 2 % of that of what was sent, by nearest rank."""
    measured, sent = {each.name: each.value for each in report.judge_run(directory).measures}, sorted(sent)
    for percentile in PERCENTILES:
        name, wanted = f"{kind}p{percentile}_ms", sent[math.ceil(percentile / 100 * len(sent)) - 1]
        assert measured[name] == pytest.approx(wanted, abs=2, rel=0.02), name


def undisturbed(taken):
    """The first of `taken`, each a run's folder and what else is known of it, that the generator sent on time."""
    for attempt in itertools.islice(taken, ATTEMPTS):
        if not report.judge_run(attempt[0]).vetoes:
            return attempt
    pytest.skip(f"this machine is busy: {ATTEMPTS} runs were sent with a lag above {MAX_LAG_MS} ms")


def recorded_runs(path, tmp_path, **planted):
    """Run after run: its folder, and of each answer that is judged when its deltas were sent."""
    while True:
        record = tmp_path / "sent.jsonl"
        with fake_triton(record, **planted) as server:
            directory, sent = recorded_run(path, server, record, tmp_path / "runs")
        answers = [deltas for sample, deltas in sent if sample.intended_s >= WARMUP_S]
        assert len(answers) > 200
        yield directory, answers


def test_streams_are_measured_as_they_were_sent(tmp_path):
    path = a_scenario(tmp_path, 'process = "poisson", rate = 20, duration_s = 13', GENERATE)
    planted = {"latency_s": 0.12, "delta_s": 0.02, "sigma": 0.6, "burst": 3}
    directory, answers = undisturbed(recorded_runs(path, tmp_path, **planted))
    assert_measured(directory, "", [deltas[-1] for deltas in answers])
    assert_measured(directory, "ttft_", [deltas[0] for deltas in answers])
    gaps = [after - before for deltas in answers for before, after in itertools.pairwise(deltas)]
    assert_measured(directory, "itl_", gaps)


@pytest.mark.parametrize("asked", [EMBED, f"{GENERATE}, stream = false"], ids=["embed", "generate"])
def test_whole_answers_are_measured_as_they_were_sent(tmp_path, asked):
    # 30 requests are out at once, and overtake each other.
    path = a_scenario(tmp_path, 'process = "poisson", rate = 50, duration_s = 8', asked)
    planted = {"latency_s": 0.5, "sigma": 0.6}
    directory, answers = undisturbed(recorded_runs(path, tmp_path, **planted))
    assert_measured(directory, "", [deltas[-1] for deltas in answers])


LOOP = Path(__file__).with_name("tritonclient_loop.py")
BLOCKS = 3


def both(path, tmp_path, server):
    """Run after run: its folder, (TTFT, ITLs) of its answers, and of those that the loop measures right after it."""
    scenario = load(path)
    calls = zip(scenario.schedule(), corpus.calls(scenario), strict=False)
    requests = "\n".join(json.dumps([due_s, call.texts[0], call.output_tokens]) for due_s, call in calls)
    command = [sys.executable, LOOP, server.url.removeprefix("grpc://")]
    while True:
        directory = run(path, server.url, tmp_path / "runs")
        ours = [
            (sample.ttft_ms, sample.itl_ms)
            for sample in samples.read_run(directory)[1]
            if sample.intended_s >= WARMUP_S
        ]
        lines = subprocess.run(command, input=requests, capture_output=True, check=True, text=True).stdout
        theirs = [(first, gaps) for due_s, first, gaps in map(json.loads, lines.splitlines()) if due_s >= WARMUP_S]
        assert len(ours) == len(theirs) > 20
        yield directory, ours, theirs


def test_a_loop_on_tritonclient_measures_the_same(tmp_path):
    path = a_scenario(tmp_path, 'process = "poisson", rate = 8, duration_s = 5', GENERATE)
    ours, theirs = [], []
    with fake_triton(latency_s=0.1, delta_s=0.03) as server:
        # In turns, so that a machine that changes its pace changes it for both.
        for _ in range(BLOCKS):
            _, by_us, by_hand = undisturbed(both(path, tmp_path, server))
            ours += by_us
            theirs += by_hand
    assert mean_first(ours) == pytest.approx(mean_first(theirs), rel=0.03)
    assert mean_gap(ours) == pytest.approx(mean_gap(theirs), rel=0.03)


def mean_first(answers):
    return statistics.fmean(first for first, _ in answers)


def mean_gap(answers):
    return statistics.fmean(gap for _, gaps in answers for gap in gaps)
