"""A finished search on disk: capacity.json and capacity.html hold every trial, and the answer."""

import json
import math

import pytest
from test_page import Page

from loadtests.judging.capacity import Capacity, Trial
from loadtests.judging.measure import Measure, Outcome
from loadtests.judging.verdict import Verdict
from loadtests.reports.capacity_page import Search, write_search
from loadtests.samples import RunError
from loadtests.traffic import scenario

PASS, FAIL, INCONCLUSIVE = Outcome


def a_trial(load, outcome, p95_ms=None, generator_bound=False):
    """With a percentile and a goodput, or with nothing measured at all."""
    measures = () if p95_ms is None else (
        Measure("p95_ms", p95_ms, p95_ms * 0.9, None if outcome is INCONCLUSIVE else p95_ms * 1.1, 500, outcome, "p95"),
        Measure("goodput_per_s", 0.0 if math.isinf(p95_ms) else load * 0.9),
    )  # fmt: skip
    verdict = Verdict(outcome, (f"<b>{outcome}</b>",), measures, 100, 9, {}, (), "mine", generator_bound)
    return Trial(load, verdict, f"run-{load}-{outcome}")


TRIALS = [
    a_trial(12, PASS, 20.0),
    a_trial(24, FAIL, math.inf),
    a_trial(18, PASS, 90.0),
    a_trial(19, INCONCLUSIVE, 480.0),
    a_trial(19, INCONCLUSIVE, generator_bound=True),
]
ANSWERS = {
    "rate = 18 requests/s": Capacity(18, TRIALS[1:2]),
    "at least rate = 18 requests/s": Capacity(18, TRIALS[3:]),
    "no capacity found": Capacity(None, TRIALS[1:2]),
}


@pytest.mark.parametrize("headline", ANSWERS)
def test_every_trial_is_on_the_page_and_in_the_json(tmp_path, headline):
    shipped = scenario.load(scenario.locate("embed_smoke"))
    path = write_search(Search(shipped, "mine", TRIALS, ANSWERS[headline]), tmp_path)
    assert path.parent.name.endswith("-mine-capacity")
    parsed = Page(path.read_text(encoding="utf-8"))
    assert f"mine: {headline}" in parsed.words
    assert [row[:4] for row in parsed.rows[:6]] == [
        ["rate", "verdict", "p95_ms", "goodput_per_s"],
        ["12", "✓ PASS", "20.0 ms", "10.8 requests/s"],
        ["18", "✓ PASS", "90.0 ms", "16.2 requests/s"],
        ["19", "? INCONCLUSIVE", "480.0 ms", "17.1 requests/s"],
        ["19", "? INCONCLUSIVE", "", ""],
        ["24", "✗ FAIL", "never", "0.0 requests/s"],
    ]
    assert parsed.tags.count("svg") == parsed.tags.count("figcaption") == 2
    links = [value for name, value in parsed.attributes if name == "href" and not value.startswith("#")]
    assert sorted(links) == sorted(f"../{trial.run}/report.html" for trial in TRIALS)
    assert "<b>FAIL</b>" in parsed.words
    assert "b" not in parsed.tags
    written = json.loads((path.parent / "capacity.json").read_text())
    assert (written["load"], written["capacity"]) == ("rate", ANSWERS[headline].load)
    assert [trial["measures"].get("p95_ms") for trial in written["trials"]] == [20, None, 90, 480, None]


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "runs").write_text("a file")
    search = Search(scenario.load(scenario.locate("embed_smoke")), "mine", TRIALS, ANSWERS["no capacity found"])
    with pytest.raises(RunError, match="choose another folder for runs"):
        write_search(search, tmp_path / "runs")
