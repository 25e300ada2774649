"""What prompt lookup drafts from which tokens, and when it stops to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_lookup import MATCHED, PAUSE, PromptLookup

tokens = st.lists(st.integers(0, 3), max_size=60)


@pytest.mark.parametrize(
    ("prompt", "output", "draft"),
    [
        ([], [], []),
        ([1, 2, 3], [], []),
        ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3], [4, 5, 6]),
        ([1, 2, 3, 4, 5, 6, 7], [8, 2, 3], []),
        ([1, 2, 3, 4, 5, 6, 1, 2], [3], [4, 5, 6]),  # across the prompt's end
        ([1, 2, 3, 4, 4, 4, 1, 2, 3, 5, 6, 7, 1], [2, 3], [5, 6, 7]),  # the latest place
        ([9], [1, 2, 3, 1, 2, 3], [1, 2, 3]),  # in circles
        ([7, 7, 7, 7], [], [7, 7, 7]),
        ([1, 2, 1, 2, 1], [], [2, 1, 2]),
    ],
)
def test_a_draft_is_what_followed_the_same_tokens_last(prompt: list[int], output: list[int], draft: list[int]) -> None:
    assert PromptLookup(prompt, output, 3).draft() == draft


@given(tokens, tokens, st.integers(1, 5))
def test_an_answer_that_grows_is_looked_up_as_one_that_was_there(
    prompt: list[int], output: list[int], count: int
) -> None:
    growing: list[int] = []
    lookup = PromptLookup(prompt, growing, count)
    for token in output:
        lookup.draft()
        growing.append(token)
    assert (found := lookup.draft()) == PromptLookup(prompt + output, [], count).draft()
    assert len(found) in (0, count)
    whole = prompt + output
    behind = [place for place in range(MATCHED, len(whole)) if whole[place - MATCHED : place] == whole[-MATCHED:]]
    assert bool(found) == bool(behind)


def test_drafts_that_do_not_come_true_stop_for_a_while() -> None:
    output = [7] * 8
    lookup = PromptLookup([], output, 3)
    assert lookup.draft()
    lookup.verified(4)
    for _ in range(3):
        assert lookup.draft()
        lookup.verified(1)
    silent = 0
    while not lookup.draft():
        output.append(7)
        silent += 1
    assert silent == PAUSE
    lookup.verified(4)
    assert lookup.draft()
