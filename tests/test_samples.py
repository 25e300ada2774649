import json
import os

import pytest

from loadtests import samples, scenario
from loadtests.samples import Run, RunError, Sample, SampleWriter

GOOD = {"index": 0, "intended_s": 1.0, "started_s": 1.001, "finished_s": 1.02, "ok": True, "texts": 1}


def a_sample(index=0, **changes):
    return Sample(**(GOOD | {"index": index} | changes))


def a_run(count):
    return Run(
        id="20260101-000000-000-embed_smoke",
        name="embed_smoke",
        scenario=scenario.load(scenario.locate("embed_smoke")),
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
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(RunError, match="is not a run of this version: format"):
        samples.read_run(tmp_path)
