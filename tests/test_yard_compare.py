"""`yard compare`: two runs on disk, and what was proved of their difference."""

import pytest
from finished_runs import finished_run


@pytest.mark.parametrize(
    ("before", "after", "code", "words"),
    [
        (0.02, 0.02, 0, "no difference was proved at confidence 0.95"),
        (0.02, 0.025, 1, "worse: p50_ms"),
        (0.025, 0.02, 0, "better: p50_ms"),
        # Both keep the limit of 500 ms, or both break it: goodput is the SLA's, and changes with it.
        (0.02, 0.6, 1, "goodput (confidence 0.95 for all together)"),
    ],
)
def test_what_changed_is_said_and_what_became_worse_fails(yard, tmp_path, before, after, code, words):
    found, out, err = yard(
        "compare", finished_run(tmp_path / "before", before), finished_run(tmp_path / "after", after)
    )
    assert (found, err) == (code, "")
    assert words in out


def test_the_table_has_values_and_the_bounds_of_the_change(yard, tmp_path):
    _, out, _ = yard("compare", finished_run(tmp_path / "before", 0.02), finished_run(tmp_path / "after", 0.6))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert ["p50_ms", "20.0 ms", "600.0 ms", "+580.0 ms to +580.0 ms", "worse"] in rows
    assert any(row[:3] == ["goodput", "100.00%", "0.00%"] and row[3].endswith("points") for row in rows)


def test_other_traffic_cannot_be_compared(yard, tmp_path):
    before, after = finished_run(tmp_path / "before"), finished_run(tmp_path / "after", name="embed_burst")
    code, out, err = yard("compare", before, after)
    assert (code, out) == (2, "")
    assert "had different traffic" in err


def test_what_is_no_run_is_said(yard, tmp_path):
    code, _, err = yard("compare", finished_run(tmp_path / "before"), tmp_path)
    assert code == 2
    assert "holds no run" in err


def test_a_run_whose_generator_was_busy_is_not_compared(yard, tmp_path):
    code, out, err = yard(
        "compare", finished_run(tmp_path / "before"), finished_run(tmp_path / "after", 0.03, cpu_p95=0.97)
    )
    assert (code, err) == (3, "")
    assert "after cannot be compared: the generator itself was busy: 97% of a core" in out
