"""Stop strings: the first that is complete ends the text, however the text is cut."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yard.checkout import BACKENDS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BACKENDS / "detokenizer")
    from stop import StopStrings


def in_pieces(stops: Sequence[str], pieces: Sequence[str]) -> tuple[list[str], bool]:
    """What comes out for each piece, and at the end; and whether a stop string was found."""
    strings, out = StopStrings(stops), []
    for piece in pieces:
        out.append(strings.push(piece))
        if strings.found:
            return out, True
    return [*out, strings.flush()], False


def by_hand(stops: Sequence[str], text: str) -> tuple[str, bool]:
    """Look at the text as it grows by one character, and ask of every stop string whether it ends here."""
    for end in range(1, len(text) + 1):
        if here := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, here))], True
    return text, False


def cut(text: str, places: set[int]) -> list[str]:
    borders = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[begin:end] for begin, end in pairwise(borders)]


FEW = st.text("ab\n", max_size=60)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=6), max_size=5)
PLACES = st.sets(st.integers(0, 60))


@given(STOPS, FEW, PLACES)
def test_the_pieces_end_where_reading_by_hand_ends(stops: list[str], text: str, places: set[int]) -> None:
    out, found = in_pieces(stops, cut(text, places))
    assert ("".join(out), found) == by_hand(stops, text)


@given(STOPS, FEW)
def test_only_the_longest_beginning_of_a_stop_string_is_held_back(stops: list[str], text: str) -> None:
    strings, out = StopStrings(stops), 0
    for end in range(1, len(text) + 1):
        out += len(strings.push(text[end - 1]))
        if strings.found:
            return
        endings = [text[start:end] for start in range(end)]
        held = [ending for ending in endings if any(stop.startswith(ending) for stop in stops)]
        assert text[out:end] == (held[0] if held else "")


TABLE = {
    "none": ([], ["a", "b"], ["a", "b", ""], False),
    "in one piece": (["END"], ["so it ENDs"], ["so it "], True),
    "across borders": (["END"], ["so E", "N", "D."], ["so ", "", ""], True),
    "a beginning that fails": (["END"], ["so E", "N", "o"], ["so ", "", "ENo", ""], False),
    "a beginning at the end": (["END"], ["so EN"], ["so ", "EN"], False),
    "a beginning in a beginning": (["aab"], ["aa", "a", "b"], ["", "a", ""], True),
    "the first that is complete, not the first that began": (["abcd", "c"], ["abcd"], ["ab"], True),
    "the longest of those that end together": (["c", "abc", "bc"], ["xa", "bc"], ["x", ""], True),
    "at once": (["a"], ["a"], [""], True),
    "no letter of ascii": (["\n\n", "»"], ["été\n", "»"], ["été", "\n"], True),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_comes_out_piece_by_piece(name: str) -> None:
    stops, pieces, want, found = TABLE[name]
    assert in_pieces(stops, pieces) == (want, found)
