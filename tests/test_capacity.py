"""The capacity search on simulated servers: what it tries, what it names, and what it never names."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.judging.capacity import (
    MISSES,
    PASSES,
    RESOLUTION,
    Bound,
    Capacity,
    Span,
    Trial,
    deciding,
    following,
    lengthened,
    sentence,
)
from loadtests.judging.measure import Measure, Outcome
from loadtests.judging.sla import Sla
from loadtests.judging.verdict import Facts, Verdict, judge
from loadtests.samples import EmbedSample

PASS, FAIL, INCONCLUSIVE = Outcome
USERS = Span(least=1, most=64, start=4, whole=True)
RATES = Span(least=1.5, most=768, start=12)


def a_trial(load, outcome, by_generator=False):
    reason = "the generator itself was late" if by_generator else f"p95_ms says {outcome}"
    return Trial(load, Verdict(outcome, (reason,), (), 100, 0, {}, (), "mine", by_generator))


def search(span, server):
    """Ask `server`, a function of load and number of the trial, until there is an answer."""
    trials = []
    while not isinstance(step := following(trials, span), Capacity):
        assert span.least <= step <= span.most
        assert len(trials) < 500
        trials.append(server(step, len(trials)))
    return step, trials


def exactly(limit):
    """A server that keeps the SLA up to `limit`, and verdicts that are right."""
    return lambda load, _: a_trial(load, PASS if load <= limit else FAIL)


def loads(trials):
    return [f"{trial.load:g}" + ("+" if trial.passed else "-") for trial in trials]


@pytest.mark.parametrize(
    ("span", "limit", "tried"),
    [
        (USERS, 6, "4+ 8- 6+ 7- 7- 6+ 6+"),
        (USERS, 1, "4- 2- 1+ 2- 1+ 1+"),
        (USERS, 0, "4- 2- 1- 1-"),
        (USERS, 99, "4+ 8+ 16+ 32+ 64+ 64+ 64+"),
        (RATES, 75, "12+ 24+ 48+ 96- 72+ 84- 78- 75+ 78- 75+ 75+"),
        (RATES, 5, "12- 6- 3+ 4.5+ 5.25- 4.88+ 5.06- 5.06- 4.88+ 4.88+"),
        (RATES, 0, "12- 6- 3- 1.5- 1.5-"),
        # Bounds that are no double or half of the start.
        (Span(least=3, most=10, start=4, whole=True), 99, "4+ 8+ 10+ 10+ 10+"),
        (Span(least=3, most=10, start=4, whole=True), 0, "4- 3- 3-"),
        (Span(least=6, most=6, start=6, whole=True), 6, "6+ 6+ 6+"),
    ],
)
def test_what_is_tried_of_a_server_whose_verdicts_are_right(span, limit, tried):
    found, trials = search(span, exactly(limit))
    assert " ".join(loads(trials)) == tried
    highest = max((trial.load for trial in trials if trial.passed), default=None)
    assert found.load == highest


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 400))
def test_the_exact_number_of_users_is_found_in_few_trials(most, start, limit):
    span = Span(least=1, most=most, start=min(start, most), whole=True)
    found, trials = search(span, exactly(limit))
    assert found.load == (min(limit, most) or None)
    # Doubling or halving, bisecting, and the repeats at the edge.
    assert len(trials) <= 2 * math.ceil(math.log2(most)) + PASSES + MISSES


@given(st.floats(0.01, 1e5), st.floats(1, 1000), st.floats(0.13, 10))
def test_the_rate_is_found_to_the_resolution(start, headroom, share):
    span = Span(least=start / 8, most=start * headroom, start=start)
    limit = start * share
    found, trials = search(span, exactly(limit))
    assert limit / RESOLUTION <= found.load <= limit or found.load == span.most <= limit
    assert len(trials) <= 2 + math.log2(headroom) + 6 + PASSES + MISSES


@st.composite
def noisy_servers(draw):
    """Verdicts that are right as often as they are wrong or undecided."""
    limit, seed = draw(st.integers(0, 70)), draw(st.integers(0, 10**6))
    right, undecided = draw(st.floats(0, 1)), draw(st.floats(0, 1))

    def server(load, number):
        chance = random.Random(seed * 1000 + number)
        if chance.random() < undecided:
            return a_trial(load, INCONCLUSIVE, chance.random() < 0.5)
        truth = (PASS, FAIL) if load <= limit else (FAIL, PASS)
        return a_trial(load, truth[chance.random() > right])

    return server


@settings(max_examples=200)
@given(st.sampled_from([USERS, RATES]), noisy_servers())
def test_whatever_the_verdicts_only_what_passed_is_named(span, server):
    found, trials = search(span, server)
    by_load = {load: [each for each in trials if each.load == load] for load in {each.load for each in trials}}
    assert all(len(each) <= PASSES + MISSES - 1 for each in by_load.values())
    if found.load is None:
        assert {trial.load for trial in found.missed} == {span.least}
        assert len(found.missed) >= MISSES
        assert found.outcome is (FAIL if any(trial.failed for trial in found.missed) else INCONCLUSIVE)
        return
    at = [trial.passed for trial in by_load[found.load]]
    assert at.count(True) >= PASSES
    assert at.count(False) < MISSES
    if found.bound is Bound.MOST:
        assert found.load == span.most
        return
    upper = found.missed[0].load
    assert len(found.missed) >= MISSES
    assert found.load < upper <= max(found.load * RESOLUTION, found.load + span.whole)
    below = [[each.passed for each in of] for load, of in by_load.items() if load < found.load]
    assert all(True in passed and passed.count(False) < MISSES for passed in below)
    assert (found.bound is Bound.SERVER) == any(trial.failed for trial in found.missed)
    assert (found.bound is Bound.GENERATOR) == all(trial.verdict.generator_bound for trial in found.missed)


def test_a_server_that_breaks_the_sla_is_hardly_ever_named():
    # Each trial of a broken load passes with probability 0.05, the most that a verdict allows.
    def unlucky(seed):
        chance = random.Random(seed)
        return lambda load, _: a_trial(load, PASS if load <= 6 or chance.random() < 0.05 else FAIL)

    named = [search(USERS, unlucky(seed))[0].load for seed in range(2000)]
    # A few loads above 6 are tried, each named with probability 4 * 0.05**3 at most.
    assert sum(load > 6 for load in named) <= 8
    assert min(named) == 6


def scripted(script):
    """Verdicts one after the other: load -> letters of its trials."""
    letters = {load: iter(each) for load, each in script.items()}
    words = {"P": (PASS, False), "F": (FAIL, False), "I": (INCONCLUSIVE, False), "G": (INCONCLUSIVE, True)}
    return lambda load, _: a_trial(load, *words[next(letters[load])])


@pytest.mark.parametrize(
    ("script", "tried", "load", "bound"),
    [
        # Undecided once is tried again at once, undecided twice is a miss.
        ({4: "IPPP", 8: "II", 6: "PPP", 7: "F" * 2}, "4- 4+ 8- 8- 6+ 7- 7- 6+ 6+", 6, "server"),
        # The edge: the upper neighbour passes when it is asked again, and all is open above it.
        ({4: "P", 8: "FF", 6: "P", 7: "FPPP"}, "4+ 8- 6+ 7- 7+ 8- 7+ 7+", 7, "server"),
        # The edge: the lower neighbour misses twice, and the one below it is asked.
        ({4: "PPP", 8: "F", 6: "PFF", 7: "FF", 5: "FF"}, "4+ 8- 6+ 7- 7- 6- 6- 5- 5- 4+ 4+", 4, "server"),
        # Three of four are enough.
        ({4: "P", 8: "F", 6: "PFPP", 7: "FF"}, "4+ 8- 6+ 7- 7- 6- 6+ 6+", 6, "server"),
        # The generator bounds the answer only where nothing else kept the upper neighbour from passing.
        ({4: "P", 8: "GG", 6: "PPP", 7: "GG"}, "4+ 8- 8- 6+ 7- 7- 6+ 6+", 6, "generator"),
        ({4: "P", 8: "GG", 6: "PPP", 7: "GI"}, "4+ 8- 8- 6+ 7- 7- 6+ 6+", 6, "proof"),
        ({4: "P", 8: "GG", 6: "PPP", 7: "FG"}, "4+ 8- 8- 6+ 7- 7- 6+ 6+", 6, "server"),
        ({4: "F", 2: "II", 1: "II"}, "4- 2- 2- 1- 1-", None, "proof"),
    ],
)
def test_undecided_trials_and_the_edge(script, tried, load, bound):
    found, trials = search(USERS, scripted(script))
    assert " ".join(loads(trials)) == tried
    assert (found.load, found.bound) == (load, bound)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        (
            {4: "P", 8: "F", 6: "PPP", 7: "FF"},
            0,
            "capacity: users = 6, passed in 3 of 3 trials; users = 7 fails: p95_ms says FAIL",
        ),
        (
            {4: "P", 8: "GG", 6: "PPP", 7: "GG"},
            0,
            "capacity: at least users = 6, passed in 3 of 3 trials; at users = 7 the generator, not the server, is the "
            "bottleneck: the generator itself was late",
        ),
        (
            {4: "P", 8: "GG", 6: "PPP", 7: "GI"},
            0,
            "capacity: at least users = 6, passed in 3 of 3 trials; users = 7 is not decided: p95_ms says INCONCLUSIVE",
        ),
        ({4: "F", 2: "F", 1: "FI"}, 1, "no capacity: not even users = 1 passes: p95_ms says FAIL"),
        ({4: "II", 2: "GG", 1: "GG"}, 3, "capacity unknown: at users = 1 nothing can be concluded: the generator"),
        (
            dict.fromkeys((4, 8, 16, 32, 64), "PPP"),
            0,
            "capacity: at least users = 64, passed in 3 of 3 trials; nothing above it was tried, raise --most",
        ),
    ],
)
def test_the_answer_is_a_sentence_and_an_exit_code(script, code, words):
    found, trials = search(USERS, scripted(script))
    assert found.exit_code == code
    assert sentence(found, trials, "users").startswith(words)


def test_what_was_undecided_for_want_of_proof_runs_longer():
    trials = [a_trial(4, PASS), a_trial(6, INCONCLUSIVE), a_trial(8, INCONCLUSIVE, by_generator=True), a_trial(7, FAIL)]
    assert [lengthened(trials, load) for load in (3, 4, 6, 7, 8)] == [1, 1, 2, 1, 1]
    assert lengthened([*trials, a_trial(6, PASS), a_trial(6, INCONCLUSIVE)], 6) == 4


def test_a_rate_has_its_unit():
    found, trials = search(RATES, exactly(75))
    assert sentence(found, trials, "rate").startswith(
        "capacity: rate = 75 requests/s, passed in 3 of 3 trials; rate = 78 "
    )


def test_of_a_pass_the_latency_nearest_to_its_limit_decided():
    measures = [
        Measure("p50_ms", 20, 18, 22, 200, PASS, "p50"),
        Measure("p95_ms", 300, 250, 400, 500, PASS, "p95"),
        Measure("p99_ms", 900, 800, 990),
        Measure("error_rate", 0.0, 0.0, 0.049, 0.05, PASS, "errors"),
    ]
    verdict = Verdict(PASS, ("p50", "p95", "errors"), tuple(measures), 100, 0, {}, (), "mine")
    assert deciding(verdict) == "p95"
    assert deciding(Verdict(PASS, ("errors",), (measures[3],), 100, 0, {}, (), "mine")) == "errors"
    assert deciding(Verdict(FAIL, ("p95 broke",), tuple(measures), 100, 0, {}, (), "mine")) == "p95 broke"


def judged(lag_s=0.0, scheduled=100, cpu_p95=None):
    """100 requests, a second apart, each answered in 10 ms, sent `lag_s` late."""
    starts = [(float(index), index + lag_s) for index in range(100)]
    samples = [
        EmbedSample(index=index, intended_s=at, started_s=sent, finished_s=sent + 0.01, ok=True, texts=1)
        for index, (at, sent) in enumerate(starts)
    ]
    return judge(samples, Facts(scheduled=scheduled, warmup_s=0, duration_s=100, cpu_p95=cpu_p95), Sla(p50_ms=50))


@pytest.mark.parametrize(
    ("run", "outcome", "by_generator"),
    [
        ({}, PASS, False),
        ({"lag_s": 0.03}, INCONCLUSIVE, True),
        ({"cpu_p95": 0.95}, INCONCLUSIVE, True),
        ({"scheduled": 101}, INCONCLUSIVE, False),
        ({"scheduled": 101, "cpu_p95": 0.95}, INCONCLUSIVE, True),
    ],
)
def test_a_verdict_says_whether_the_generator_is_why(run, outcome, by_generator):
    verdict = judged(**run)
    assert (verdict.outcome, verdict.generator_bound) == (outcome, by_generator)
