"""The choice of tokens, against slow and plain formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from request import Settings
from sampler import HEAD, Sampler

VOCABULARY = 50
logits_of = st.lists(st.floats(-8, 8, width=32), min_size=VOCABULARY, max_size=VOCABULARY, unique=True).map(
    lambda values: np.array(values, np.float32)
)


def sampler(prompt=(1, 2), vocabulary=VOCABULARY, **settings) -> Sampler:
    return Sampler(Settings(**settings), list(prompt), end_ids=(0,), vocabulary=vocabulary)


def softmax(logits):
    weights = np.exp(np.float64(logits) - np.float64(logits).max())
    return weights / weights.sum()


@given(logits_of)
def test_greedy_takes_the_largest(logits) -> None:
    for settings in ({}, {"temperature": 0.0}, {"top_k": 1, "temperature": 2.0}, {"top_p": 0.0}):
        assert sampler(**settings).next(logits.copy()) == logits.argmax()


@given(logits_of, st.integers(1, VOCABULARY), st.integers(0, 2**64 - 1))
def test_top_k_draws_among_the_k_largest(logits, top_k, seed) -> None:
    token = sampler(top_k=top_k, seed=seed).next(logits.copy())
    assert token in np.argsort(-logits)[:top_k]


@given(logits_of, st.floats(0.01, 0.999), st.integers(0, 2**64 - 1))
def test_top_p_draws_from_the_smallest_set_that_holds_p(logits, top_p, seed) -> None:
    order = np.argsort(-logits)
    mass = np.cumsum(softmax(logits)[order])
    # One more than needed where rounding decides.
    nucleus = order[: int((mass < top_p + 1e-5).sum()) + 1]
    assert sampler(top_p=top_p, seed=seed).next(logits.copy()) in nucleus


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.8}, {"top_k": 10, "top_p": 0.7}])
def test_drawn_tokens_follow_the_distribution(settings) -> None:
    logits = np.linspace(0, 3, VOCABULARY, dtype=np.float32)
    want = softmax(logits / 0.8)
    order = np.argsort(-want)
    if "top_k" in settings:
        want[order[settings["top_k"] :]] = 0
    if "top_p" in settings:
        mass = np.cumsum(want[order] / want.sum())
        want[order[int(np.searchsorted(mass, settings["top_p"])) + 1 :]] = 0
    want /= want.sum()
    draw = sampler(temperature=0.8, seed=7, **settings)
    counts = np.bincount([draw.next(logits.copy()) for _ in range(20_000)], minlength=VOCABULARY)
    assert not counts[want == 0].any()
    # Five standard deviations of a binomial count.
    assert (np.abs(counts / 20_000 - want) <= 5 * np.sqrt(want * (1 - want) / 20_000)).all()


def test_a_flat_distribution_needs_more_than_the_head() -> None:
    logits = np.zeros(4 * HEAD, np.float32)
    drawn = sampler(vocabulary=4 * HEAD, top_p=0.9, seed=3)
    tokens = [drawn.next(logits.copy()) for _ in range(200)]
    assert len(set(tokens)) > 150


def test_the_same_seed_gives_the_same_tokens_and_no_seed_gives_others() -> None:
    logits = np.zeros(VOCABULARY, np.float32)

    def tokens(**settings):
        drawn = sampler(temperature=1.0, **settings)
        return [drawn.next(logits.copy()) for _ in range(30)]

    assert tokens(seed=5) == tokens(seed=5)
    assert tokens(seed=5) != tokens(seed=6)
    assert tokens() != tokens()


def test_penalties_follow_their_formulas() -> None:
    logits = np.linspace(-2, 2, VOCABULARY, dtype=np.float32)
    settings = {"repetition_penalty": 1.5, "presence_penalty": 0.25, "frequency_penalty": 0.5}
    penalised = sampler(prompt=(1, 49), **settings)
    output: list[int] = []
    for _ in range(12):
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
