"""The choice of tokens, against slow and plain formulas."""

import numpy as np
import pytest
from choice import BLOCK, COLUMNS, draw, largest, nucleus
from hypothesis import given, settings
from hypothesis import strategies as st
from request import Settings
from sampler import Sampler

VOCABULARY = 50
LARGE = 3 * COLUMNS + 17
quick = settings(max_examples=30, deadline=None)
logits_of = st.lists(st.floats(-8, 8, width=32), min_size=VOCABULARY, max_size=VOCABULARY, unique=True).map(
    lambda values: np.array(values, np.float32)
)


def sampler(prompt=(1, 2), **settings) -> Sampler:
    return Sampler(Settings(**settings), list(prompt), end_ids=(0,))


def softmax(logits):
    weights = np.exp(np.float64(logits) - np.float64(logits).max())
    return weights / weights.sum()


@quick
@given(logits_of)
def test_greedy_takes_the_largest(logits) -> None:
    for asked in ({}, {"temperature": 0.0}, {"top_k": 1, "temperature": 2.0}, {"top_p": 0.0}, {"min_p": 1.0}):
        assert sampler(**asked).next(logits.copy()) == logits.argmax()


@quick
@given(logits_of, st.integers(1, VOCABULARY), st.integers(0, 2**64 - 1))
def test_top_k_draws_among_the_k_largest(logits, top_k, seed) -> None:
    token = sampler(top_k=top_k, seed=seed).next(logits.copy())
    assert token in np.argsort(-logits)[:top_k]


@quick
@given(logits_of, st.floats(0.01, 0.999), st.integers(0, 2**64 - 1))
def test_top_p_draws_from_the_smallest_set_that_holds_p(logits, top_p, seed) -> None:
    order = np.argsort(-logits)
    mass = np.cumsum(softmax(logits)[order])
    # One more than needed where rounding decides.
    nucleus = order[: int((mass < top_p + 1e-5).sum()) + 1]
    assert sampler(top_p=top_p, seed=seed).next(logits.copy()) in nucleus


def kept_of(want, top_k=0, top_p=1.0, min_p=0.0):
    """The probabilities that are left, by sorting all of them."""
    want = np.where(want >= min_p * want.max(), want, 0.0)
    order = np.argsort(-want, kind="stable")
    want[order[top_k or len(order) :]] = 0
    mass = np.cumsum(want[order] / want.sum())
    want[order[int(np.searchsorted(mass, top_p)) + 1 :]] = 0
    return want / want.sum()


FILTERS = [
    {},
    {"top_k": 5},
    {"top_p": 0.8},
    {"top_k": 10, "top_p": 0.7},
    {"min_p": 0.3},
    {"min_p": 0.1, "top_k": 20, "top_p": 0.9},
]


@pytest.mark.parametrize("filters", FILTERS)
def test_drawn_tokens_follow_the_distribution(filters) -> None:
    logits = np.linspace(0, 3, VOCABULARY, dtype=np.float32)
    want = kept_of(softmax(logits / 0.8), **filters)
    draws = sampler(temperature=0.8, seed=7, **filters)
    counts = np.bincount([draws.next(logits.copy()) for _ in range(1_000)], minlength=VOCABULARY)
    assert not counts[want == 0].any()
    # Five standard deviations of a binomial count.
    assert (np.abs(counts / 1_000 - want) <= 5 * np.sqrt(want * (1 - want) / 1_000)).all()


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("spread", [0.0, 0.05, 1.0, 8.0])
def test_of_many_tokens_those_are_drawn_that_sorting_all_would_leave(filters, spread) -> None:
    logits = (np.random.default_rng(3).standard_normal(LARGE) * spread).astype(np.float32)
    want = kept_of(softmax(logits), **filters)
    for random in (0.0, 0.3, 0.999, 1 - 2**-53):
        assert want[draw(logits.copy(), random, **filters)] > 0


@pytest.mark.parametrize("size", [2, BLOCK, BLOCK + 1, LARGE])
def test_a_draw_falls_where_the_running_sum_passes_it(size) -> None:
    logits = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    # Those that weigh nothing are never drawn, at the end neither.
    logits[size // 2 + 1 :: 3] = logits[-1] = -1e30
    logits[0] = 0
    bounds = np.cumsum(softmax(logits))
    for random in np.linspace(0, 1 - 2**-53, 50):
        token = draw(logits.copy(), float(random))
        assert (bounds[token - 1] if token else 0.0) - 1e-6 <= random <= bounds[token] + 1e-6
        assert logits[token] > -1e30


def test_what_weighs_nothing_is_never_drawn_however_sums_are_rounded() -> None:
    numbers = np.random.default_rng(5)
    for _ in range(300):
        size = int(numbers.integers(1, 4 * BLOCK))
        logits = numbers.uniform(-28, 0, size).astype(np.float32)
        logits[numbers.random(size) < numbers.random()] = -1e30
        logits[numbers.integers(size)] = 0
        weights = np.exp(logits)
        ends = np.cumsum(np.add.reduceat(weights, np.arange(0, size, BLOCK), dtype=np.float64))
        # Where one block ends and the next one begins.
        end = float(numbers.choice(ends)) / ends[-1]
        for random in (np.nextafter(end, 0), min(end, 1 - 2**-53)):
            assert weights[draw(logits.copy(), float(random))] > 0


few = st.lists(st.integers(-3, 3), min_size=1, max_size=40)


@quick
@given(few, st.integers(1, 60), st.sampled_from([1, 50]))
def test_the_largest_are_found_with_equals_in_their_order(values, count, repeats) -> None:
    numbers = np.array(values * repeats, np.float32)
    assert largest(numbers, count).tolist() == np.argsort(-numbers, kind="stable")[:count].tolist()


@quick
@given(st.lists(st.integers(-40, 40), min_size=1, max_size=60), st.floats(0.01, 0.999))
def test_the_nucleus_is_the_fewest_that_hold_p(values, top_p) -> None:
    weights = np.exp2(np.array(values, np.float32) / 32)
    order = np.argsort(-weights, kind="stable")
    bounds = np.cumsum(weights[order], dtype=np.float64)
    fewest = order[: int(np.searchsorted(bounds, top_p * bounds[-1])) + 1]
    assert sorted(nucleus(weights, top_p)) == sorted(fewest)


def test_the_same_seed_gives_the_same_tokens_and_no_seed_gives_others() -> None:
    logits = np.zeros(VOCABULARY, np.float32)

    def tokens(**asked):
        drawn = sampler(temperature=1.0, **asked)
        return [drawn.next(logits.copy()) for _ in range(30)]

    assert tokens(seed=5) == tokens(seed=5)
    assert tokens(seed=5) != tokens(seed=6)
    assert tokens() != tokens()


def test_penalties_follow_their_formulas() -> None:
    logits = np.linspace(-2, 2, VOCABULARY, dtype=np.float32)
    asked = {"repetition_penalty": 1.5, "presence_penalty": 0.25, "frequency_penalty": 0.5}
    penalised = sampler(prompt=(1, 49), **asked)
    output: list[int] = []
    for _ in range(60):
        want = np.float64(logits)
        for token in {1, 49, *output}:
            want[token] = want[token] / 1.5 if want[token] > 0 else want[token] * 1.5
        for token in set(output):
            want[token] -= 0.25 + 0.5 * output.count(token)
        output.append(penalised.next(logits.copy()))
        assert output[-1] == want.argmax()


def test_the_end_token_waits_for_min_tokens() -> None:
    logits = np.zeros(VOCABULARY, np.float32)
    logits[0], logits[9] = 5, 4
    waiting = sampler(min_tokens=3)
    assert [waiting.next(logits.copy()) for _ in range(5)] == [9, 9, 9, 0, 0]


def test_a_bias_is_added_before_the_penalties() -> None:
    logits = np.zeros(VOCABULARY, np.float32)
    logits[5], logits[6] = 3.0, 2.5
    assert sampler(logit_bias={6: 1.0}).next(logits.copy()) == 6
    assert sampler(logit_bias={5: -100.0, 6: -100.0, 7: 0.5}).next(logits.copy()) == 7
    # (2.5 + 1) / 2 is less than 3.
    assert sampler(prompt=(6,), repetition_penalty=2.0, logit_bias={6: 1.0}).next(logits.copy()) == 5
    drawn = sampler(temperature=1.0, seed=1, logit_bias={9: 100.0})
    assert {drawn.next(logits.copy()) for _ in range(20)} == {9}


@quick
@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4), st.lists(st.integers(1, 4))
)
def test_bad_words_are_never_completed_and_nothing_else_changes(words, prompt) -> None:
    logits = np.array([0, 4, 3, 2, 1, -1], np.float32)
    banned = sampler(prompt=prompt or [1], bad_ids=tuple(map(tuple, words)))
    said = list(prompt or [1])
    for _ in range(8):
        allowed = [token for token in range(6) if not any([*said, token][-len(word) :] == word for word in words)]
        said.append(banned.next(logits.copy()))
        assert said[-1] == max(allowed, key=lambda token: logits[token])


@pytest.mark.parametrize(
    ("asked", "is_plain"),
    [
        ({}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 1.0}, False),
        ({"min_tokens": 1}, False),
        ({"bad_ids": ((1,),)}, False),
        ({"logit_bias": {1: 1.0}}, False),
        ({"presence_penalty": 1.0}, False),
    ],
)
def test_plain_is_what_the_largest_logit_alone_decides(asked, is_plain) -> None:
    assert sampler(**asked).is_plain is is_plain
