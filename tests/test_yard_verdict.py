"""`yard verdict`: a run on disk, judged again from the command line."""

import json

import pytest
from finished_runs import finished_run

from loadtests.traffic import scenario


@pytest.fixture
def a_run(tmp_path):
    return finished_run(tmp_path / "run")


def sla_file(folder, text):
    path = folder / "other.toml"
    path.write_text(text)
    return path


def test_its_own_sla_judges_and_nothing_is_written(a_run, yard):
    before = sorted(a_run.iterdir())
    code, out, err = yard("verdict", a_run)
    assert (code, err) == (0, "")
    assert "PASS embed_smoke, 120 requests judged, 24 cut as warm-up" in out
    assert "p95_ms is 20.0 ms (between 20.0 ms and 20.0 ms), within the limit of 500 ms" in out
    assert sorted(a_run.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("sla = { p95_ms = 19.5 }", 1, "FAIL embed_smoke"),
        ("sla = { p95_ms = 25 }", 0, "PASS embed_smoke"),
        ("sla = { p99_ms = 25 }", 3, "p99_ms needs 299 requests at confidence 0.95, 120 were judged"),
        ("sla = { p95_ms = 25, min_goodput = 0.9 }\nelse = 'is not read'", 0, "120 of 120 requests met every"),
    ],
)
def test_another_sla_judges_again(a_run, yard, tmp_path, text, code, words):
    found, out, _ = yard("verdict", a_run, "--sla", sla_file(tmp_path, text))
    assert found == code
    assert words in out


def test_a_scenario_is_an_sla_file_too(a_run, yard):
    code, out, _ = yard("verdict", a_run, "--sla", scenario.locate("embed_batch"))
    assert code == 3
    assert "p99_ms needs 299 requests" in out


def test_files_are_written_where_they_are_asked_for(a_run, yard, tmp_path):
    code, _, _ = yard("verdict", a_run, "--sla", sla_file(tmp_path, "sla = { p50_ms = 9 }"), "--out", tmp_path / "out")
    assert code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["junit.xml", "metrics.prom", "verdict.json"]
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["outcome"] == "FAIL"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sla = { p96_ms = 25 }", "unknown key 'sla.p96_ms'"),
        ("", "key 'sla' is missing"),
        ("sla = { ttft_p95_ms = 25 }", "this SLA cannot be asked of the run: sla.ttft_p95_ms can only be judged of"),
        ("sla = { tpot_p95_ms = 25 }", "sla.tpot_p95_ms can only be judged of a stream of tokens"),
    ],
)
def test_a_wrong_sla_is_a_usage_error(a_run, yard, tmp_path, text, words):
    code, out, err = yard("verdict", a_run, "--sla", sla_file(tmp_path, text))
    assert (code, out) == (2, "")
    assert words in err


def test_what_is_no_run_is_said(yard, tmp_path):
    code, _, err = yard("verdict", tmp_path / "absent")
    assert code == 2
    assert "does not exist" in err
    code, _, err = yard("verdict", tmp_path)
    assert code == 2
    assert "holds no run: run.json is missing" in err
