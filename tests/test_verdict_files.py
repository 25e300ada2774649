"""What is written beside the samples: junit.xml by the rules of Jenkins' schema, metrics.prom by Prometheus' parser."""

import json
import math
from xml.etree import ElementTree

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtests.judging.measure import Measure, Outcome
from loadtests.judging.verdict import Verdict
from loadtests.reports import exposition, junit, report
from loadtests.samples import RunError

LATE = "the generator itself was late: p99 of started - intended is 21.0 ms"
MEASURES = (
    Measure("p50_ms", 15.0, 14.0, 16.0, 25.0, Outcome.PASS, "p50_ms is 15.0 ms", 60),
    Measure("p95_ms", math.inf, 30.0, None, 25.0, Outcome.FAIL, "p95_ms is <infinite> & more", 60),
    Measure("ttft_p99_ms", 40.0, 30.0, None, 50.0, Outcome.INCONCLUSIVE, "ttft_p99_ms needs 299 requests", 60),
    Measure("error_rate", 0.1, 0.05, 0.2, independent=60),
    Measure("p50_ms", 35.0, kind="chat"),
    Measure("lag_p99_ms", 0.5, limit=20.0),
)


def a_verdict(outcome=Outcome.FAIL, vetoes=()):
    reasons = vetoes or ("p95_ms is <infinite> & more",)
    return Verdict(outcome, reasons, MEASURES, 60, 12, {'Timed"out"': 6}, vetoes, "embed_smoke")


def cases(verdict):
    (suite,) = ElementTree.fromstring(junit.to_xml(verdict))
    return suite, {case.get("name"): case for case in suite}


def test_junit_has_a_case_an_objective():
    suite, found = cases(a_verdict())
    assert list(found) == ["the run can be judged", "p50_ms", "p95_ms", "ttft_p99_ms"]
    assert [len(case) for case in found.values()] == [0, 0, 1, 1]
    (failure,), (skipped,) = found["p95_ms"], found["ttft_p99_ms"]
    assert (failure.tag, failure.get("type"), failure.get("message")) == (
        "failure",
        "SLA",
        "p95_ms is <infinite> & more",
    )
    assert failure.text == failure.get("message")
    assert (skipped.tag, skipped.get("message")) == ("skipped", "INCONCLUSIVE: ttft_p99_ms needs 299 requests")
    assert {case.get("classname") for case in found.values()} == {"loadtest.embed_smoke"} == {suite.get("name")}


def test_a_run_that_cannot_be_judged_is_one_skipped_case():
    suite, found = cases(a_verdict(Outcome.INCONCLUSIVE, (LATE, "100 of 120 are on record")))
    assert list(found) == ["the run can be judged"]
    assert found["the run can be judged"][0].get("message") == f"INCONCLUSIVE: {LATE}; 100 of 120 are on record"
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")


@pytest.mark.parametrize("vetoes", [(), (LATE,)])
def test_junit_counts_what_it_holds(vetoes):
    text = junit.to_xml(a_verdict(vetoes=vetoes))
    root = ElementTree.fromstring(text)
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>')
    assert root.tag == "testsuites"
    for element in (root, root[0]):
        counts = [int(element.get(key)) for key in ("tests", "failures", "skipped", "errors")]
        assert counts == [len(list(root.iter(tag))) for tag in ("testcase", "failure", "skipped", "error")]


def test_prometheus_reads_the_metrics():
    families = {family.name: family for family in text_string_to_metric_families(exposition.to_text(a_verdict()))}
    assert {family.type for family in families.values()} == {"gauge"}
    numbers = {
        (
            name.removeprefix("tritonyard_loadtest_"),
            *sorted(set(sample.labels.values()) - {"embed_smoke", ""}),
        ): sample.value
        for name, family in families.items()
        for sample in family.samples
    }
    assert all(sample.labels["scenario"] == "embed_smoke" for family in families.values() for sample in family.samples)
    assert numbers == pytest.approx(
        {
            ("outcome", "PASS"): 0,
            ("outcome", "FAIL"): 1,
            ("outcome", "INCONCLUSIVE"): 0,
            ("requests", "judged"): 60,
            ("requests", "cut"): 12,
            ("errors", 'Timed"out"'): 6,
            ("latency_p50_seconds", "value"): 0.015,
            ("latency_p50_seconds", "low"): 0.014,
            ("latency_p50_seconds", "high"): 0.016,
            ("latency_p50_seconds", "limit"): 0.025,
            ("latency_p50_seconds", "chat", "value"): 0.035,
            ("latency_p95_seconds", "value"): math.inf,
            ("latency_p95_seconds", "low"): 0.03,
            ("latency_p95_seconds", "limit"): 0.025,
            ("ttft_p99_seconds", "value"): 0.04,
            ("ttft_p99_seconds", "low"): 0.03,
            ("ttft_p99_seconds", "limit"): 0.05,
            ("error_rate", "value"): 0.1,
            ("error_rate", "low"): 0.05,
            ("error_rate", "high"): 0.2,
            ("lag_p99_seconds", "value"): 0.0005,
            ("lag_p99_seconds", "limit"): 0.02,
        }
    )


def test_all_three_files_are_written_whole(tmp_path):
    report.write_verdict(a_verdict(), tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["junit.xml", "metrics.prom", "verdict.json"]
    document = json.loads((tmp_path / "new" / "verdict.json").read_text())
    assert (document["scenario"], document["cut"], document["measures"][0]["independent"]) == ("embed_smoke", 12, 60)


def test_a_folder_that_takes_no_files_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file takes no verdict: .*; choose another folder"):
        report.write_verdict(a_verdict(), tmp_path / "file")
