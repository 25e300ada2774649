"""Samples and limits -> verdicts, by tables, by properties, and by servers that stand at their limits."""

import json
import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.judging.measure import Outcome
from loadtests.judging.sla import Sla
from loadtests.judging.verdict import Facts, judge
from loadtests.reports import report
from loadtests.samples import EmbedSample, GenerateSample

BETTER = [Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS]


def samples_of(latencies_ms, *, lag_ms=0.0, rate=10.0, first_s=0.0):
    """One sample a latency, evenly spaced; None is a request that failed after 10 ms."""
    made = []
    for index, latency in enumerate(latencies_ms):
        intended = first_s + index / rate
        made.append(
            EmbedSample(
                index=index,
                intended_s=intended,
                started_s=intended + lag_ms / 1000,
                finished_s=intended + max(10.0 if latency is None else latency, lag_ms) / 1000,
                ok=latency is not None,
                error="Planted" if latency is None else None,
                texts=1,
            )
        )
    return made


def judged(latencies_ms, *, lag_ms=0.0, warmup_s=0.0, **limits):
    samples = samples_of(latencies_ms, lag_ms=lag_ms)
    facts = Facts(len(samples), warmup_s, duration_s=len(samples) / 10)
    return judge(samples, facts, Sla(**limits))


def measure(verdict, name):
    return next(each for each in verdict.measures if each.name == name)


@pytest.mark.parametrize(
    ("latencies", "limits", "outcome", "words"),
    [
        (
            [20] * 100,
            {"p95_ms": 25},
            "PASS",
            "p95_ms is 20.0 ms (between 20.0 ms and 20.0 ms), within the limit of 25",
        ),
        (
            [20] * 100,
            {"p95_ms": 15},
            "FAIL",
            "p95_ms is 20.0 ms (between 20.0 ms and 20.0 ms), outside the limit of 15",
        ),
        (([20] * 19 + [90]) * 5, {"p95_ms": 50}, "INCONCLUSIVE", "which straddles the limit of 50 ms"),
        (
            [20] * 58,
            {"p95_ms": 25},
            "INCONCLUSIVE",
            "p95_ms needs 59 requests at confidence 0.95, 58 were judged",
        ),
        ([20] * 59, {"p95_ms": 25}, "PASS", "within"),
        (
            [20] * 298,
            {"p99_ms": 25},
            "INCONCLUSIVE",
            "p99_ms needs 299 requests at confidence 0.95, 298 were",
        ),
        ([20] * 299, {"p99_ms": 25}, "PASS", "within"),
        (
            [20] * 59,
            {"p95_ms": 25, "confidence": 0.99},
            "INCONCLUSIVE",
            "needs 90 requests at confidence 0.99",
        ),
        # Too few to pass are enough to fail when nearly all of them are outside.
        ([90] * 20, {"p95_ms": 25}, "FAIL", "outside"),
        (
            ([20] * 4 + [None]) * 20,
            {"p95_ms": 1000},
            "FAIL",
            "p95_ms is infinite, because 20 of 100 requests failed, outside the limit of 1000 ms",
        ),
        ([None] * 100, {"p50_ms": 1000}, "FAIL", "p50_ms is infinite"),
        (
            [20] * 100,
            {"max_error_rate": 0.05},
            "PASS",
            "error_rate is 0.00% (between 0.00% and 2.95%), 0 of 100",
        ),
        ([20] * 97 + [None] * 3, {"max_error_rate": 0.05}, "INCONCLUSIVE", "3 of 100, which straddles"),
        (([20] * 4 + [None]) * 20, {"max_error_rate": 0.05}, "FAIL", "20 of 100, outside the limit of 5.00%"),
        (
            [20] * 100,
            {"p50_ms": 25, "min_goodput": 0.9},
            "PASS",
            "goodput is 100.00% (between 97.05% and 100.00%), 100 of 100 requests met every latency limit, within the",
        ),
        (
            ([20] * 4 + [90]) * 20,
            {"p50_ms": 25, "min_goodput": 0.9},
            "FAIL",
            "80 of 100 requests met every latency limit, outside",
        ),
        (
            ([20] * 12 + [90]) * 10,
            {"p50_ms": 25, "min_goodput": 0.9},
            "INCONCLUSIVE",
            "which straddles the limit of 90.00%",
        ),
        # A slow stretch is one event, however many requests it catches.
        (
            [20] * 150 + [90] * 40 + [20] * 150,
            {"p95_ms": 50},
            "INCONCLUSIVE",
            "340 requests, which depend on each other, count as 9), which straddles the limit of 50 ms",
        ),
        ([20] * 100, {"min_achieved_rate": 0.99}, "PASS", "100 answers for 100 requests, within"),
        (
            [20] * 80 + [None] * 20,
            {"min_achieved_rate": 0.9},
            "FAIL",
            "achieved_rate is 80.0% of the offered rate",
        ),
        # A backlog: every request waits longer than the one before, and the last third never comes in time.
        (
            [index * 50 for index in range(100)],
            {"min_achieved_rate": 0.9},
            "FAIL",
            "67 answers for 100 requests",
        ),
    ],
)
def test_what_is_proved(latencies, limits, outcome, words):
    verdict = judged(latencies, **limits)
    assert verdict.outcome == outcome
    assert words in verdict.reasons[-1]


def test_every_objective_that_decides_is_a_reason():
    verdict = judged([20] * 100, p50_ms=10, p95_ms=25, p99_ms=25)
    assert verdict.outcome is Outcome.FAIL
    assert [reason.split()[0] for reason in verdict.reasons] == ["p50_ms"]
    verdict = judged([20] * 100, p50_ms=25, p95_ms=25, max_error_rate=0.1)
    assert [reason.split()[0] for reason in verdict.reasons] == ["p50_ms", "p95_ms", "error_rate"]


@pytest.mark.parametrize("latency", [20, 90, None])
def test_a_late_generator_proves_nothing(latency):
    verdict = judged([latency] * 100, lag_ms=21, p95_ms=50)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].startswith("the generator itself was late: p99 of started - intended is 21.0 ms")
    assert judged([20] * 100, lag_ms=19, p95_ms=50).outcome is Outcome.PASS
    assert judged([20] * 100, lag_ms=21, p95_ms=50, max_lag_ms=25).outcome is Outcome.PASS


@pytest.mark.parametrize(("cpu_p95", "outcome"), [(None, "PASS"), (0.89, "PASS"), (0.91, "INCONCLUSIVE")])
def test_a_generator_without_a_free_core_proves_nothing(cpu_p95, outcome):
    verdict = judge(samples_of([20] * 100), Facts(100, 0, 10, cpu_p95=cpu_p95), Sla(p95_ms=50))
    assert verdict.outcome == outcome
    assert verdict.reasons[0].startswith("the generator itself was busy: 91%") == (outcome == "INCONCLUSIVE")


def test_missing_samples_prove_nothing():
    samples = samples_of([20] * 100)
    verdict = judge(samples, Facts(120, 0, 12), Sla(p95_ms=50))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons == ("100 of 120 scheduled requests are on record; run again",)


def test_the_warmup_is_cut_by_the_intended_start():
    latencies = [2000] * 20 + [20] * 80
    assert judged(latencies, warmup_s=2, p95_ms=50).outcome is Outcome.PASS
    assert judged(latencies, warmup_s=1.9, p95_ms=50).judged == 81
    assert judged(latencies, warmup_s=2, p95_ms=50).cut == 20
    assert judged(latencies, p95_ms=50).outcome is not Outcome.PASS


def test_a_window_without_requests_proves_nothing():
    verdict = judged([20] * 10, warmup_s=0.95, p95_ms=50)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.judged == 0


def test_errors_are_counted_by_class():
    assert judged([20] * 98 + [None] * 2, p95_ms=50).errors == {"Planted": 2}


@pytest.mark.parametrize(("limit", "outcome", "code"), [(30, "PASS", 0), (10, "FAIL", 1), (17, "INCONCLUSIVE", 3)])
def test_exit_codes(limit, outcome, code):
    verdict = judged([20, 15] * 50, p50_ms=limit)
    assert (verdict.outcome, verdict.exit_code) == (outcome, code)


some_latencies = st.lists(st.one_of(st.none(), st.floats(0.1, 500)), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(some_latencies, st.floats(1, 500), st.floats(1, 500), st.floats(0.01, 0.9), st.floats(0.01, 0.9))
def test_a_wider_limit_never_gives_a_worse_verdict(latencies, limit, other, rate, other_rate):
    low, high = sorted([limit, other])
    strict, lax = sorted([rate, other_rate])
    narrow = judged(latencies, p50_ms=low, p95_ms=low, max_error_rate=strict, min_achieved_rate=lax)
    wide = judged(latencies, p50_ms=high, p95_ms=high, max_error_rate=lax, min_achieved_rate=strict)
    assert BETTER.index(narrow.outcome) <= BETTER.index(wide.outcome)


@settings(max_examples=60, deadline=None)
@given(some_latencies, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(latencies, random_):
    samples = samples_of(latencies)
    facts, sla = Facts(len(samples), 1.0, len(samples) / 10), Sla(p50_ms=100, p99_ms=400, max_error_rate=0.1)
    shuffled = list(samples)
    random_.shuffle(shuffled)
    assert judge(shuffled, facts, sla) == judge(samples, facts, sla)


RUNS, WORST = 200, 20
# P(Bin(200, 0.05) > 20) = 0.0012: more wrong verdicts than that mean that the stated confidence is not kept.


@pytest.mark.parametrize("rho", [0, 0.9])
def test_a_server_at_every_limit_of_its_sla_is_rarely_judged_wrong(rho):
    # Two latency limits, an error rate and a goodput at once, through the whole verdict: they share the confidence.
    # The normal scores of the requests are AR(1); the worst 4 % of them fail.
    sla = Sla(p50_ms=-30 * math.log(0.5), p90_ms=-30 * math.log(0.1), max_error_rate=0.04, min_goodput=0.9)
    outcomes = []
    for seed in range(RUNS):
        draw = random.Random(seed)
        latencies, score = [], draw.gauss(0, 1)
        for _ in range(200):
            place = NormalDist().cdf(score)
            latencies.append(-30 * math.log(1 - place) if place < 0.96 else None)
            score = rho * score + math.sqrt(1 - rho**2) * draw.gauss(0, 1)
        outcomes.append(judge(samples_of(latencies), Facts(200, 0, 20), sla).outcome)
    assert outcomes.count(Outcome.FAIL) <= WORST
    assert outcomes.count(Outcome.PASS) <= WORST


@pytest.mark.parametrize("rho", [0, 0.5])
def test_errors_at_their_limit_that_come_in_clusters_are_rarely_judged_wrong(rho):
    # A run must hold some clusters to show them.
    outcomes = []
    for seed in range(RUNS):
        draw = random.Random(seed)
        latencies, score = [], draw.gauss(0, 1)
        for _ in range(200):
            latencies.append(math.exp(score) if NormalDist().cdf(score) < 0.95 else None)
            score = rho * score + math.sqrt(1 - rho**2) * draw.gauss(0, 1)
        outcomes.append(judged(latencies, max_error_rate=0.05).outcome)
    assert outcomes.count(Outcome.FAIL) <= WORST
    assert outcomes.count(Outcome.PASS) <= WORST


def test_a_clear_case_is_decided():
    draw = random.Random(1)
    latencies = [draw.expovariate(1 / 30) for _ in range(300)]
    assert judged(latencies, p95_ms=150).outcome is Outcome.PASS
    assert judged(latencies, p95_ms=60).outcome is Outcome.FAIL


def test_the_table_has_a_row_a_measure_and_an_error_class():
    verdict = judged([20] * 90 + [None] * 10, p50_ms=25, min_achieved_rate=0.5)
    table = {row.measure: row for row in report.rows(verdict)}
    assert list(table) == [each.name for each in verdict.measures] + ["errors: Planted"]
    assert vars(table["p50_ms"]) == {
        "measure": "p50_ms",
        "value": "20.0 ms",
        "interval": "20.0 ms to 20.0 ms",
        "limit": "at most 25.0 ms",
        "outcome": "PASS",
    }
    assert table["p95_ms"].value == "never"
    assert (table["p95_ms"].limit, table["p95_ms"].outcome) == ("", "")
    assert table["achieved_rate"].limit == "at least 50.00%"
    assert table["errors: Planted"].value == "10"


def test_verdict_json_is_json(tmp_path):
    verdict = judged(([20] * 9 + [None]) * 10, p95_ms=25)
    report.write_verdict(verdict, tmp_path)
    document = json.loads((tmp_path / report.VERDICT).read_text())
    assert (document["outcome"], document["exit_code"], document["judged"]) == ("FAIL", 1, 100)
    assert document["reasons"] == list(verdict.reasons)
    by_name = {each["name"]: each for each in document["measures"]}
    assert by_name["p95_ms"]["value"] is None
    assert by_name["p50_ms"]["value"] == pytest.approx(20)


def generation(index, intended, *deltas, ok=True):
    """One streamed request, started as intended: (seconds after it, new tokens) of each delta."""
    counts = [sum(new for _, new in deltas[: number + 1]) for number in range(len(deltas))]
    return GenerateSample(
        index=index,
        intended_s=intended,
        started_s=intended,
        finished_s=intended + (deltas[-1][0] if deltas else 1.0),
        ok=ok,
        error=None if ok else "Planted",
        tokens_in=9,
        deltas=tuple((intended + after, count) for (after, _), count in zip(deltas, counts, strict=True)),
    )


def steady(index, *, ttft=0.2, gap=0.05, tokens=5, ok=True):
    """A request a second, token by token; one that fails does so after its second token."""
    deltas = [(ttft + number * gap, 1) for number in range(tokens)]
    return generation(index, index * 1.0, *(deltas if ok else deltas[:2]), ok=ok)


def judged_stream(samples, *, warmup_s=0.0, duration_s=None, streamed=True, **limits):
    facts = Facts(len(samples), warmup_s, len(samples) if duration_s is None else duration_s, streamed)
    return judge(samples, facts, Sla(**limits))


def test_the_measures_of_a_stream_by_hand():
    # Window [1, 4): the first request is warm-up, and the last one's second token comes after the end.
    samples = [
        generation(0, 0.5, (0.1, 1), (0.9, 1)),
        generation(1, 1.0, (0.2, 1), (0.3, 1), (0.6, 3)),  # itl 100, then 3 times 100
        generation(2, 2.0, (0.4, 2), (0.7, 1)),  # itl 300, and nothing from the first two tokens
        generation(3, 3.0, (0.6, 1), (1.4, 1)),  # itl 800
    ]
    verdict = judged_stream(samples, warmup_s=1.0, duration_s=4.0, p50_ms=9000)
    values = {each.name: each.value for each in verdict.measures}
    assert verdict.judged == 3
    assert [values[f"p{n}_ms"] for n in (50, 90, 95, 99)] == pytest.approx([700, 1400, 1400, 1400])
    assert [values[f"ttft_p{n}_ms"] for n in (50, 90, 95, 99)] == pytest.approx([400, 600, 600, 600])
    # Every request weighs a third: 100 ms up to 1/3, 300 ms up to 2/3, 800 ms up to 1.
    assert [values[f"itl_p{n}_ms"] for n in (50, 90, 95, 99)] == pytest.approx([300, 800, 800, 800])
    # (700 - 400) / 2, (600 - 200) / 4 and (1400 - 600) / 1
    assert [values[f"tpot_p{n}_ms"] for n in (50, 90, 95, 99)] == pytest.approx([150, 800, 800, 800])
    # 600 / 5, 700 / 3 and 1400 / 2
    assert values["normalized_latency_ms"] == pytest.approx((120 + 700 / 3 + 700) / 3)
    # 5 + 3 + 1 tokens in 3 s, and 9 of each prompt.
    assert values["output_tokens_per_s"] == pytest.approx(3.0)
    assert values["input_tokens_per_s"] == pytest.approx(9.0)
    assert values["goodput"] == 1
    assert values["goodput_per_s"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("deltas", "limits", "met"),
    [
        ([(0.2, 1), (0.3, 1)], {"p95_ms": 300, "ttft_p95_ms": 200, "itl_p95_ms": 100, "tpot_p95_ms": 100}, True),
        ([(0.2, 1), (0.3, 1)], {"p95_ms": 299}, False),
        ([(0.2, 1), (0.3, 1)], {"ttft_p95_ms": 199}, False),
        ([(0.2, 1), (0.3, 1)], {"itl_p95_ms": 99}, False),
        ([(0.2, 1), (0.3, 1)], {"tpot_p95_ms": 99}, False),
        # Half the requests may miss a limit on the median.
        ([(0.2, 1), (0.3, 1)], {"p50_ms": 100, "p95_ms": 300}, True),
        # Nine of ten gaps within what nine of ten must keep.
        ([(0.1 * i + (i > 9), 1) for i in range(11)], {"itl_p90_ms": 101}, True),
        ([(0.1 * i + (i > 9), 1) for i in range(11)], {"itl_p95_ms": 101}, False),
        # An answer of one token has no pace to miss.
        ([(0.2, 1)], {"ttft_p95_ms": 200, "itl_p95_ms": 1, "tpot_p95_ms": 1}, True),
    ],
)
def test_goodput_counts_the_requests_that_meet_every_limit(deltas, limits, met):
    verdict = judged_stream([generation(0, 0.0, *deltas)], **limits)
    assert measure(verdict, "goodput").value == met
    failed = judged_stream([generation(0, 0.0, *deltas, ok=False)], **limits)
    assert measure(failed, "goodput").value == 0


def test_goodput_needs_a_latency_limit():
    assert "goodput" not in [each.name for each in judged([20] * 20, max_error_rate=0.5).measures]
    with pytest.raises(ValueError, match="min_goodput counts the requests that meet the latency limits"):
        Sla(min_goodput=0.9, max_error_rate=0.5)


def test_input_tokens_are_shown_where_answers_tell_them():
    samples = [sample.model_copy(update={"tokens": 7}) for sample in samples_of([20] * 20)]
    found = judge(samples, Facts(20, 0, 2), Sla(p50_ms=25))
    assert measure(found, "input_tokens_per_s").value == 70
    assert "input_tokens_per_s" not in [each.name for each in judged([20] * 20, p50_ms=25).measures]


@pytest.mark.parametrize(
    ("samples", "limits", "outcome", "words"),
    [
        ([steady(i) for i in range(60)], {"ttft_p95_ms": 250}, "PASS", "ttft_p95_ms is 200.0 ms (between 200.0"),
        ([steady(i) for i in range(60)], {"ttft_p95_ms": 150}, "FAIL", "outside the limit of 150 ms"),
        (
            [steady(i) for i in range(58)],
            {"ttft_p95_ms": 250},
            "INCONCLUSIVE",
            "ttft_p95_ms needs 59 requests at confidence 0.95, 58 were judged",
        ),
        (
            [steady(i, ok=i % 5 > 0) for i in range(100)],
            {"ttft_p95_ms": 250},
            "FAIL",
            "ttft_p95_ms is infinite, because 20 of 100 requests failed",
        ),
        (
            [steady(i) for i in range(60)],
            {"tpot_p95_ms": 60},
            "PASS",
            "tpot_p95_ms is 50.0 ms (between 50.0 ms and 50.0 ms), within",
        ),
        (
            [steady(i, gap=0.05 if i % 5 else 0.5) for i in range(60)],
            {"tpot_p90_ms": 60},
            "FAIL",
            "outside the limit of 60 ms",
        ),
        ([steady(i) for i in range(60)], {"itl_p95_ms": 60}, "PASS", "itl_p95_ms is 50.0 ms (between 50.0"),
        ([steady(i) for i in range(60)], {"itl_p95_ms": 40}, "FAIL", "outside the limit of 40 ms"),
        # 1160 latencies, but of 58 requests: tokens of one request do not make up for others.
        (
            [steady(i, tokens=21) for i in range(58)],
            {"itl_p95_ms": 60},
            "INCONCLUSIVE",
            "itl_p95_ms needs 59 requests at confidence 0.95, 58 were judged",
        ),
        # Two of 60 requests are slow: 3 % of the tokens, and nothing is proved about 5 %.
        (
            [steady(i, gap=0.05 if i % 30 else 0.5) for i in range(60)],
            {"itl_p95_ms": 60},
            "INCONCLUSIVE",
            "itl_p95_ms is 50.0 ms (between 50.0 ms and 500.0 ms), which straddles the limit of 60 ms",
        ),
        (
            [steady(i, ok=i % 5 > 0) for i in range(100)],
            {"itl_p90_ms": 60},
            "FAIL",
            "itl_p90_ms is infinite, because 20 of 100 requests failed",
        ),
        (
            [steady(i, tokens=1) for i in range(60)],
            {"itl_p50_ms": 60},
            "INCONCLUSIVE",
            "itl_p50_ms: no answer came in more than one delta",
        ),
        (
            [steady(i) for i in range(60)],
            {"min_output_tokens_per_s": 5},
            "PASS",
            "output_tokens_per_s is 5.0 tokens/s, 300 tokens in 60 s, within the limit of 5 tokens/s",
        ),
        (
            [steady(i) for i in range(60)],
            {"min_output_tokens_per_s": 5.1},
            "FAIL",
            "outside the limit of 5.1 tokens/s",
        ),
        # The tokens of a request that fails later are no output.
        (
            [steady(i, ok=i >= 12) for i in range(60)],
            {"min_output_tokens_per_s": 4.1},
            "FAIL",
            "output_tokens_per_s is 4.0 tokens/s, 240 tokens in 60 s",
        ),
    ],
)
def test_what_is_proved_of_a_stream(samples, limits, outcome, words):
    verdict = judged_stream(samples, **limits)
    assert verdict.outcome == outcome
    assert len(verdict.reasons) == 1
    assert words in verdict.reasons[0]


def test_limits_on_streams_share_the_confidence_with_the_others():
    # 10 of 100 first tokens are late: enough for a FAIL alone, not when five more objectives share the risk.
    samples = [steady(i, ttft=0.2 if i % 10 else 0.9) for i in range(100)]
    assert judged_stream(samples, ttft_p95_ms=250).outcome is Outcome.FAIL
    lax = {"p50_ms": 9e3, "p95_ms": 9e3, "itl_p50_ms": 9e3, "itl_p95_ms": 9e3, "max_error_rate": 0.9}
    assert judged_stream(samples, ttft_p95_ms=250, **lax).outcome is Outcome.INCONCLUSIVE


def test_answers_that_are_not_streamed_have_no_measures_of_a_stream():
    samples = [steady(i, tokens=1) for i in range(20)]
    names = [each.name for each in judged_stream(samples, streamed=False, p50_ms=300).measures]
    assert "output_tokens_per_s" in names
    assert not [name for name in names if name.startswith(("ttft", "itl"))]
    embeds = [each.name for each in judged([20] * 20, p50_ms=300).measures]
    assert not [name for name in embeds if name.startswith(("ttft", "itl", "output"))]


def test_measures_of_a_stream_are_shown_in_their_units(tmp_path):
    verdict = judged_stream([steady(i) for i in range(60)], itl_p95_ms=60, min_output_tokens_per_s=4)
    table = {row.measure: row for row in report.rows(verdict)}
    assert vars(table["itl_p95_ms"]) == {
        "measure": "itl_p95_ms",
        "value": "50.0 ms",
        "interval": "50.0 ms to 50.0 ms",
        "limit": "at most 60.0 ms",
        "outcome": "PASS",
    }
    assert table["ttft_p50_ms"].value == "200.0 ms"
    assert vars(table["output_tokens_per_s"]) == {
        "measure": "output_tokens_per_s",
        "value": "5.0 tokens/s",
        "interval": "",
        "limit": "at least 4.0 tokens/s",
        "outcome": "PASS",
    }
    report.write_verdict(verdict, tmp_path)
    document = json.loads((tmp_path / report.VERDICT).read_text())
    by_name = {each["name"]: each for each in document["measures"]}
    assert by_name["output_tokens_per_s"]["value"] == pytest.approx(5.0)
    assert by_name["itl_p95_ms"]["limit"] == 60


def mixed(slow_of_5=0):
    """100 searches of 20 ms; 100 chats: 50 ms to the first token, 10 ms to each of 4 more, or 10 times that."""
    searches = [each.model_copy(update={"kind": "search"}) for each in samples_of([20] * 100)]
    chats = []
    for index in range(100):
        begin, slow = 0.05 + index / 10, 10 if index % 5 < slow_of_5 else 1
        deltas = tuple((round(begin + slow * (0.05 + 0.01 * n), 6), n + 1) for n in range(5))
        times = {"intended_s": begin, "started_s": begin, "finished_s": deltas[-1][0]}
        chats.append(GenerateSample(index=100 + index, kind="chat", **times, ok=True, tokens_in=9, deltas=deltas))
    return searches + chats


MIXED = Facts(200, 0.0, 10.1, streamed_kinds=frozenset({"chat"}))


@pytest.mark.parametrize(
    ("kinds", "slow_of_5", "outcome", "words"),
    [
        ({"chat": {"ttft_p50_ms": 60}}, 0, "PASS", "chat.ttft_p50_ms is 50.0 ms (between 50.0 ms and 50.0 ms), within"),
        ({"chat": {"ttft_p50_ms": 40}}, 0, "FAIL", "chat.ttft_p50_ms is 50.0 ms"),
        # All requests together would keep this limit at 60 %.
        ({"chat": {"p50_ms": 100}}, 4, "FAIL", "chat.p50_ms is 900.0 ms"),
        ({"search": {"p95_ms": 25}}, 4, "PASS", "search.p95_ms is 20.0 ms"),
        ({"chat": {"ttft_p50_ms": 60, "min_goodput": 0.95}}, 1, "FAIL", "chat.goodput is 80.00%"),
        ({"chat": {"max_error_rate": 0.1}}, 0, "PASS", "chat.error_rate is 0.00%"),
        ({"tool": {"p95_ms": 25}}, 0, "INCONCLUSIVE", "no request of kind 'tool' was intended after the warm-up"),
    ],
)
def test_a_kind_of_a_mix_has_limits_of_its_own(kinds, slow_of_5, outcome, words):
    sla = Sla.model_validate({"p50_ms": 1000, "kinds": kinds})
    verdict = judge(mixed(slow_of_5), MIXED, sla)
    assert verdict.outcome == outcome
    assert words in "\n".join(verdict.reasons)
    assert {each.kind for each in verdict.measures} == {None, *kinds} - {"tool"}


def test_all_objectives_of_all_kinds_share_the_risk():
    one = judge(mixed(), MIXED, Sla(p50_ms=1000))
    many = judge(mixed(), MIXED, Sla.model_validate({"p50_ms": 1000, "kinds": {"chat": {"p50_ms": 99, "p95_ms": 99}}}))
    assert measure(many, "error_rate").low <= measure(one, "error_rate").low
    assert measure(many, "error_rate").high == measure(one, "error_rate").high
