"""The HTML page of a run: what its plots are made of, and that it shows everything, alone and safely."""

import itertools
import math
import random
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests import samples
from loadtests.judging.sla import Sla
from loadtests.reports import page, report, series
from loadtests.samples import EmbedSample, GenerateSample, Run, SampleWriter
from loadtests.traffic import scenario

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would make of a page: its tags, attributes, words, table rows; every element is closed."""

    VOID = frozenset({"meta"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.rows, self._open = [], [], "", [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self._open and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data


def an_embedding(index, latency_ms=20.0, error=None):
    times = {"intended_s": index / 10, "started_s": index / 10, "finished_s": index / 10 + latency_ms / 1000}
    return EmbedSample(index=index, **times, ok=error is None, error=error, texts=1)


def a_generation(index, latency_ms=300.0, error=None, tokens=4):
    """Tokens come evenly; a failed request had one."""
    begin, step = index / 2, latency_ms / 1000 / tokens
    deltas = tuple((begin + step * (n + 1), n + 1) for n in range(1 if error else tokens))
    times = {"intended_s": begin, "started_s": begin, "finished_s": begin + latency_ms / 1000}
    return GenerateSample(index=index, **times, ok=error is None, error=error, tokens_in=9, deltas=deltas)


def written(directory, taken, shipped="embed_smoke", sla=None, **changes):
    """The page of a run of `taken` under a shipped scenario, as text and as parsed."""
    directory.mkdir(exist_ok=True)
    writer = SampleWriter(directory)
    for sample in taken:
        writer.add(sample)
    writer.finish()
    run = {
        "id": "20260101-000000-000",
        "name": shipped,
        "scenario": scenario.load(scenario.locate(shipped)),
        "url": "grpc://127.0.0.1:8001",
        "started_at": "2026-01-01T00:00:00+00:00",
        "scheduled": len(taken),
        "lag_p99_ms": 0.4,
        "versions": {"locust": "2.47.0"},
    }
    samples.write_run(directory, Run(**(run | changes)))
    verdict = report.judge_run(directory, sla)
    text = page.write_page(directory, verdict, sla).read_text(encoding="utf-8")
    return verdict, text, Page(text)


RUNS = {
    "some failed": ("embed_smoke", [an_embedding(n, error="TimedOut" if n % 3 else None) for n in range(150)]),
    "warm-up only": ("embed_smoke", [an_embedding(index, 0) for index in range(5)]),
    "stream": ("generate_smoke", [a_generation(index, 200 + 9 * index) for index in range(28)]),
    "stream failed": ("generate_smoke", [a_generation(index, error="ServerFailed") for index in range(28)]),
    "one token": ("generate_smoke", [a_generation(index, tokens=1) for index in range(28)]),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_page_shows_everything_and_fetches_nothing(tmp_path, kind):
    name, taken = RUNS[kind]
    verdict, _, parsed = written(tmp_path, taken, name)
    assert [path.name for path in tmp_path.glob("report*")] == ["report.html"]
    assert f"{verdict.outcome} {name}, {verdict.judged} of {len(taken)} requests judged" in parsed.words
    assert all(reason in parsed.words for reason in verdict.reasons)
    rows = [tuple(row) for row in parsed.rows]
    for row in report.rows(verdict):
        shown = f"{page.SIGNS[row.outcome]} {row.outcome}" if row.outcome else ""
        assert (row.measure, row.value, row.interval, row.limit, shown) in rows
    facts = {("url", "grpc://127.0.0.1:8001"), ("locust", "2.47.0"), ("arrivals.process", "poisson")}
    assert facts <= set(rows)
    # Words and colour, and a page that reads the same without its pictures.
    assert parsed.tags.count("figcaption") == parsed.tags.count("svg") >= 3
    links = [value for name, value in parsed.attributes if name in {"src", "href", "xlink:href"}]
    assert all(link.startswith("#") for link in links)
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)
    assert not {"script", "link", "img", "iframe", "metadata"} & set(parsed.tags)


def test_what_others_wrote_is_text(tmp_path):
    taken = [an_embedding(index, error=HOSTILE) for index in range(60)]
    _, text, parsed = written(tmp_path, taken, name=HOSTILE, url=HOSTILE, versions={HOSTILE: HOSTILE})
    assert "<script" not in text
    assert parsed.words.count(HOSTILE) >= 5


def test_another_sla_is_the_one_that_is_shown_and_the_same_run_gives_the_same_page(tmp_path):
    other = Sla(p95_ms=77)
    verdict, text, parsed = written(tmp_path, RUNS["warm-up only"][1], sla=other)
    assert ["p95_ms", "77.0"] in parsed.rows
    assert ["p50_ms", "200.0"] not in parsed.rows
    assert page.write_page(tmp_path, verdict, other).read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("sample", "values"),
    [
        (an_embedding(0, 20), {"": [20], "ttft_": [], "itl_": [], "tpot_": []}),
        (an_embedding(0, error="TimedOut"), {"": [math.inf], "ttft_": [], "itl_": [], "tpot_": []}),
        (a_generation(0, 400), {"": [400], "ttft_": [100], "itl_": [100] * 3, "tpot_": [100]}),
        (a_generation(0, 400, tokens=1), {"": [400], "ttft_": [400], "itl_": [], "tpot_": []}),
        (a_generation(0, error="TimedOut"), {latency: [math.inf] for latency in series.LATENCIES}),
    ],
)
def test_what_a_sample_has_of_each_latency(sample, values):
    assert {latency: series.values_ms(sample, latency) for latency in series.LATENCIES} == {
        latency: pytest.approx(of) for latency, of in values.items()
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4_000), st.sampled_from([0.0, 1e-9, 60.0]), st.integers(0, 9))
def test_thinning_keeps_the_extremes_and_little_else(count, duration_s, seed):
    draw = random.Random(seed)
    points = [(draw.uniform(0, duration_s), draw.expovariate(1)) for _ in range(count)]
    kept = series.thin(points)
    assert len(kept) == min(count, len(kept)) <= series.COLUMNS * series.IN_A_COLUMN
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(points)
    if points:
        for extreme in (min, max):
            assert extreme(kept, key=lambda point: point[1])[1] == extreme(points, key=lambda point: point[1])[1]


def test_thinning_leaves_the_distribution_as_it_was():
    points = [(index / 1000, float(index % 101)) for index in range(60_000)]
    values = sorted(value for _, value in series.thin(points))
    assert abs(values[len(values) // 2] - 50) <= 4


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([], []),
        ([[math.inf]] * 5, []),
        ([[7.0]], [(1, 7), (2, 7)]),
        # One long answer weighs as much as a short one: a half of all is 1.
        ([[1.0] * 1000, [9.0]], [(1, 1), (1.9, 1), (2.1, 9), (4, 9)]),
        # A half failed: the curve ends there.
        ([[5.0], [math.inf]], [(1, 5), (1.9, 5)]),
    ],
)
def test_a_curve_goes_up_to_the_greatest_finite_value(groups, expected):
    curve = series.curve(groups)
    assert [nines for nines, _ in curve] == sorted(nines for nines, _ in curve)
    for nines, value in expected:
        assert min(curve, key=lambda point: abs(point[0] - nines))[1] == value
    if expected:
        assert curve[-1][0] == pytest.approx(expected[-1][0], rel=0.06)
    else:
        assert curve == []


@settings(deadline=None)
@given(st.lists(st.floats(1, 1000), min_size=1, max_size=300))
def test_a_curve_of_single_values_is_the_order_statistics(values):
    ordered = sorted(values)
    for nines, value in series.curve([[value] for value in values]):
        # Either side of a rank that the level falls on.
        rank = (1 - 1 / nines) * len(values)
        assert (
            ordered[max(math.ceil(rank - 1e-6) - 1, 0)]
            <= value
            <= ordered[min(math.floor(rank + 1e-6), len(values) - 1)]
        )


@pytest.mark.parametrize(
    ("duration_s", "requests", "length_s", "count"),
    [
        (15, 169, 1, 15),
        (85, 340, 2, 42),  # the last one is a second longer
        (600, 100_000, 10, 60),
        (15, 24, 5, 3),
        (15, 1, 200, 1),
        (3, 120, 0.2, 15),
        (3, 0, 50, 1),
    ],
)
def test_windows_are_round_and_hold_enough(duration_s, requests, length_s, count):
    assert series.window_s(duration_s, requests) == pytest.approx(length_s)
    spans = series.spans(duration_s, requests)
    assert len(spans) == count
    assert (spans[0][0], spans[-1][1]) == (0, duration_s)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


def test_windows_hold_what_was_intended_in_them():
    taken = [an_embedding(index) for index in range(150) if not 30 <= index < 40]
    found = series.windows(taken, 15)
    assert [span for span, _ in found] == [(begin, begin + 1) for begin in range(15) if begin != 3]
    assert all({sample.intended_s // 1 for sample in held} == {begin} for (begin, _), held in found)
    assert sum(len(held) for _, held in found) == len(taken)


def test_tokens_count_when_they_came():
    # 4 tokens each, from 2.5 s, 5 s, 7.5 s and 10 s after intended starts of 0 s, 0.5 s ...; the last ones too late.
    taken = [a_generation(index, 10_000) for index in range(40)] + [a_generation(40, error="TimedOut")]
    found = series.tokens_per_s(taken, 15)
    total = sum(rate * (end - begin) for (begin, end), rate in found)
    came = sum(sum(at < 15 for at, _ in sample.deltas) for sample in taken[:40])
    assert total == pytest.approx(came)
    assert found[0][1] < found[1][1]
