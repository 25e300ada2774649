"""Where keys and values lie: which row is whose, and which prompts the others still have. No numpy, no clock.

Rows that do not run keep the prompts that were computed in them until they are needed. A new prompt takes the longest
prefix that any row has, a running one too: the row itself where nothing else would be lost, otherwise a copy of it, in
the row that is missed least. Two of its tokens at least are computed. No hit is too short to pay: on two cores a copy
takes 0.1 ms and 8 µs a token, computing 1 ms a token (SmolLM2-135M, int8).

What decoding computed, an answer, is not kept for the prompt that repeats it: it has other bits than prefill's.
"""

from typing import NamedTuple

from prefix_tree import PrefixTree


class Copy(NamedTuple):
    """Make the first `length` tokens of row `source` all that row `target` holds. Both may be the same."""

    source: int
    target: int
    length: int


class Swap(NamedTuple):
    """Exchange what two rows hold."""

    first: int
    second: int


class Rows:
    """The rows of one engine. A sequence's own row is its `row`."""

    def __init__(self, slots):
        self._slots = slots
        self._kept = PrefixTree()  # every row's prompt, behind its salt

    def match(self, sequence):
        """Return how many tokens of the prompt need not be computed again."""
        matched, _ = self._kept.match(_path(sequence, sequence.prompt_length))
        return max(0, min(matched - 1, sequence.prompt_length - 2))

    def take(self, sequence, first):
        """Give `sequence` a row from `first` on, those that do not run, with all that some row has of its prompt.

        Returns the move that brings it there.
        """
        matched, holders = self._kept.match(_path(sequence, sequence.prompt_length))
        free, cached = range(first, self._slots), self.match(sequence)
        # A row that has nothing else would be a double of the new one.
        whole = [row for row in holders if row in free and self._kept.length(row) == matched]
        taken = whole[0] if whole else self._kept.least(free)
        source = taken if taken in holders or not holders else holders[0]
        self._kept.drop(taken)
        sequence.row = taken
        return [Copy(source, taken, cached)]

    def place(self, sequence, row):
        """Move `sequence` to `row`, and what that holds to the row that it leaves; return the moves."""
        if sequence.row == row:
            return []
        move = Swap(sequence.row, row)
        self._kept.swap(*move)
        sequence.row = row
        return [move]

    def keep(self, sequence):
        """Remember what the row of `sequence` has of its prompt. One token alone is computed as decoding does it."""
        if sequence.prefilled > 1:
            self._kept.hold(sequence.row, _path(sequence, sequence.prefilled))

    def leave(self, sequence, last):
        """Put the row of `sequence` behind those that run, where it has its prompt and no answer; return the moves.

        `last` is the last that runs, which takes the row's place.
        """
        row = sequence.row
        self._kept.touch(row)
        sequence.row = last.row
        return [Copy(row, row, sequence.prompt_length), *(self.place(last, row) if last is not sequence else [])]

    def forget(self, row):
        """Trust nothing that `row` holds."""
        self._kept.drop(row)


def _path(sequence, length):
    """Return what the tree knows the first `length` tokens of the prompt by."""
    return [sequence.terms.cache_salt, *sequence.prompt[:length]]
