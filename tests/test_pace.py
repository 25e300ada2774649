"""How many prompt tokens a step carries, and when a request would start, from what steps took."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pace import LEAST, PASS, STRETCH, Pace

CHUNK = 64


def measured(tokens: int = 16, prefill_s: float = 0.016, decode_s: float = 0.0, used: float | None = None) -> Pace:
    pace = Pace(CHUNK)
    pace.stepped(tokens, prefill_s, decode_s)
    if used is not None:
        pace.ended(round(100 * used), 100)
    return pace


@pytest.mark.parametrize(
    ("token_s", "decode_s", "budget"),
    [
        (0.001, 0.030, 30 - PASS),
        (0.001, 0.001, LEAST),
        (0.001, 1.0, CHUNK),
        (0.0005, 0.02, 40 - PASS),
        (0.001, 0.0, CHUNK),
    ],
)
def test_the_prompt_tokens_of_a_step_take_no_longer_than_running_requests_can_bear(token_s, decode_s, budget) -> None:
    pace = measured(10, (10 + PASS) * token_s, decode_s)
    assert pace.budget(is_free=False) == pytest.approx(budget, abs=1)
    assert pace.budget(is_free=True) == CHUNK


@given(st.floats(0.0005, 0.01), st.floats(0.001, 0.02), st.floats(0.005, 0.1))
@settings(max_examples=30, deadline=None)
def test_the_budget_settles_where_a_step_takes_what_it_may(token_s, pass_s, decode_s) -> None:
    """A pass takes its time however few tokens it carries."""
    pace = measured(CHUNK, pass_s + CHUNK * token_s, 0.0)
    for _ in range(60):
        tokens = pace.budget(is_free=False)
        pace.stepped(tokens, pass_s + tokens * token_s, decode_s)
    last = pace.budget(is_free=False)
    if LEAST < last < CHUNK:
        spent = pass_s + last * token_s + decode_s
        assert (STRETCH - 0.25) * decode_s - 2 * token_s <= spent <= (STRETCH + 0.25) * decode_s + 2 * token_s


def test_fast_prefills_alone_do_not_raise_the_budget_beside_others() -> None:
    pace = measured(16, 0.032, 0.020)
    before = pace.budget(is_free=False)
    for _ in range(20):
        pace.stepped(CHUNK, 0.064, 0.0)
    assert pace.budget(is_free=False) == before


def test_a_step_that_was_held_up_changes_little() -> None:
    pace = measured(16, 0.024, 0.020, used=0.5)
    budget, start_s = pace.budget(is_free=False), pace.start_s([(0, 100)], [], CHUNK)
    pace.stepped(0, 0.0, 5.0)
    assert budget <= pace.budget(is_free=False) <= 1.5 * budget
    assert pace.start_s([(0, 100)], [], CHUNK) <= 1.5 * start_s


@pytest.mark.parametrize(
    ("left", "ahead", "steps"),
    [
        ([(0, 0)], [], 0),
        ([(10, 100), (40, 100)], [], 10),
        ([(60, 100)], [], 0),  # longer than most: it may end at any moment
        ([(0, 100)], [(0, 100)], 100),
        ([(0, 100), (0, 0)], [(0, 100)], 50),
        ([(0, 0)] * 3, [(640, 100), (64, 100)], 11),
    ],
)
def test_slots_become_free_in_turn_as_far_as_answers_use_their_limits(left, ahead, steps) -> None:
    pace = measured(used=0.5)
    assert pace.start_s(left, ahead, CHUNK) == pytest.approx(steps * 0.016)


def test_nothing_is_told_of_a_start_before_an_answer_has_ended() -> None:
    assert measured().start_s([(0, 10)], [(5, 5)], CHUNK) is None


requests = st.lists(st.tuples(st.integers(1, 500), st.integers(1, 100)), max_size=12)


@given(requests, requests, st.integers(1, 4), st.floats(0.1, 1))
@settings(max_examples=30, deadline=None)
def test_more_before_it_never_make_it_start_earlier(ahead, more, slots, used) -> None:
    pace, left = measured(used=used), [(0, 50)] * slots
    assert pace.start_s(left, ahead, CHUNK) <= pace.start_s(left, [*ahead, *more], CHUNK)
