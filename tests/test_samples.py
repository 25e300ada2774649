import json
import os

import pytest

from loadtests import samples
from loadtests.samples import EmbedSample, GenerateSample, Run, RunError, SampleWriter
from loadtests.traffic import scenario

GOOD = {"index": 0, "intended_s": 1.0, "started_s": 1.001, "finished_s": 1.02, "ok": True, "texts": 1}


def a_sample(index=0, **changes):
    return EmbedSample(**(GOOD | {"index": index} | changes))


def a_generation(*deltas, **changes):
    """A streamed answer that was intended at 1 s and ended with its last delta, or at 2 s without one."""
    times = {"intended_s": 1.0, "started_s": 1.001, "finished_s": deltas[-1][0] if deltas else 2.0}
    return GenerateSample(**({"index": 0, "ok": True, "tokens_in": 9, "deltas": deltas} | times | changes))


def a_run(count, name="embed_smoke"):
    return Run(
        id=f"20260101-000000-000-{name}",
        name=name,
        scenario=scenario.load(scenario.locate(name)),
        url="grpc://127.0.0.1:8001",
        started_at="2026-01-01T00:00:00+00:00",
        scheduled=count,
        lag_p99_ms=0.4,
        versions={"locust": "2.47.0"},
    )


def finished(directory, count=3):
    writer = SampleWriter(directory)
    for index in range(count):
        writer.add(a_sample(index))
    writer.finish()
    samples.write_run(directory, a_run(count))


def test_times_are_measured_from_the_intended_start():
    sample = a_sample()
    assert sample.latency_ms == pytest.approx(20)
    assert sample.lag_ms == pytest.approx(1)


def test_a_finished_run_is_read_back(tmp_path):
    finished(tmp_path)
    run, read = samples.read_run(tmp_path)
    assert run == a_run(3)
    assert read == [a_sample(0), a_sample(1), a_sample(2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "samples.jsonl"]


def test_a_killed_run_leaves_a_readable_prefix_that_nobody_takes_for_a_run(tmp_path):
    child = os.fork()
    if child == 0:
        writer = SampleWriter(tmp_path)
        for index in range(5):
            writer.add(a_sample(index))
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert len(samples.read_samples(samples.part_of(tmp_path))) == 5
    assert not (tmp_path / "samples.jsonl").exists()
    with pytest.raises(RunError, match="was broken off before its end"):
        samples.read_run(tmp_path)


def test_whole_samples_without_a_description_are_no_run(tmp_path):
    finished(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match="was broken off before its end"):
        samples.read_run(tmp_path)


def test_an_empty_folder_holds_no_run(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        samples.read_run(tmp_path)


def test_close_alone_does_not_claim_the_end(tmp_path):
    writer = SampleWriter(tmp_path)
    writer.add(a_sample())
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl.part"]


@pytest.mark.parametrize("end", [SampleWriter.finish, SampleWriter.close])
def test_two_generators_do_not_share_a_folder(tmp_path, end):
    end(SampleWriter(tmp_path))
    with pytest.raises(RunError):
        SampleWriter(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ok": False}, "ok exactly when it has no error"),
        ({"error": "Timeout"}, "ok exactly when it has no error"),
        ({"finished_s": 0.5}, "must ascend"),
        ({"started_s": 0.5}, "must ascend"),
        ({"started_s": None}, "started_s"),
        ({"texts": 0}, "texts"),
        ({"texts": "1"}, "texts"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, changes, words):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"index": 1} | changes) + "\n")
    with pytest.raises(RunError) as raised:
        samples.read_samples(path)
    assert f"{path}:2: " in str(raised.value)
    assert words in str(raised.value)


def test_a_torn_line_is_named(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD)[:20])
    with pytest.raises(RunError, match=r"samples\.jsonl:2: .* is not a sample"):
        samples.read_samples(path)


def test_a_request_on_record_twice_is_refused(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text((json.dumps(GOOD) + "\n") * 2)
    with pytest.raises(RunError, match="holds a request twice"):
        samples.read_samples(path)


def test_a_run_of_another_format_is_refused(tmp_path):
    finished(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(RunError, match="is not a run of this version: format"):
        samples.read_run(tmp_path)


def test_a_finished_run_of_generations_is_read_back(tmp_path):
    kept = [
        a_generation((1.5, 1), (1.6, 3), (1.6, 3)),
        a_generation((1.5, 1), index=1, finished_s=1.7, ok=False, error="ServerFailed"),
        a_generation(index=2, ok=False, error="DeadlineExceeded", tokens_in=None),
    ]
    writer = SampleWriter(tmp_path)
    for sample in kept:
        writer.add(sample)
    writer.finish()
    samples.write_run(tmp_path, a_run(3, "generate_smoke"))
    assert samples.read_run(tmp_path) == (a_run(3, "generate_smoke"), kept)


@pytest.mark.parametrize(
    ("deltas", "tokens_out", "ttft_ms", "itl_ms"),
    [
        ([], 0, None, []),
        ([(1.25, 1)], 1, 250, []),
        ([(1.25, 1), (1.75, 2), (2.0, 3)], 3, 250, [500, 250]),
        # Three tokens that come 600 ms after the one before them are three times 200 ms.
        ([(1.5, 1), (2.1, 4)], 4, 500, [200, 200, 200]),
        # The tokens of the first delta have none before them.
        ([(1.5, 4), (1.6, 5)], 5, 500, [100]),
        # A delta without a token, first, between and last: held-back text, and the finish reason.
        ([(1.1, 0), (1.5, 1), (1.6, 1), (1.8, 2), (1.9, 2)], 2, 500, [300]),
    ],
)
def test_what_deltas_tell(deltas, tokens_out, ttft_ms, itl_ms):
    sample = a_generation(*deltas)
    assert sample.tokens_out == tokens_out
    assert sample.ttft_ms == (None if ttft_ms is None else pytest.approx(ttft_ms))
    assert sample.itl_ms == pytest.approx(itl_ms)


@pytest.mark.parametrize(
    ("deltas", "changes"),
    [
        ([(1.6, 1), (1.5, 2)], {}),
        ([(1.5, 2), (1.6, 1)], {}),
        ([(0.9, 1)], {"finished_s": 2.0}),
        ([(1.5, 1)], {"finished_s": 1.4}),
    ],
)
def test_deltas_ascend_within_their_request(deltas, changes):
    with pytest.raises(ValueError, match="deltas must ascend"):
        a_generation(*deltas, **changes)
