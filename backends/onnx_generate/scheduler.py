"""Who runs when: a bounded queue, and rows that requests join and leave between any two steps. No numpy, no clock.

Rows 0..n-1 run: each decodes one token a step. At most one request is in mid prefill, in a row behind them. A row that
leaves changes places with the last one, so that running rows stay the first ones.

Rows that do not run keep the prompts that were computed in them until they are needed. A new prompt takes the longest
prefix that any row has, a running one too: the row itself where nothing else would be lost, otherwise a copy of it, in
the row that is missed least. Two of its tokens at least are computed. No hit is too short to pay: on two cores a copy
takes 0.1 ms and 8 µs a token, computing 1 ms a token (SmolLM2-135M, int8).

Prompts are prefilled in order of arrival and in chunks: a step carries at most `chunk` prompt tokens, of as many
prompts as fit, so a long prompt delays running requests by one chunk a step and no more. Where a prompt is cut makes no
difference to its tokens, bit for bit, but for a chunk of one: that goes through the kernels of decoding (as does the
last token of 129, 257, ...), and with int8 weights the last bits decide near-ties. So no chunk has one token, but of a
prompt of one; and what decoding computed, an answer, is not kept for the prompt that repeats it.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from prefix_tree import PrefixTree
from terms import NO_TERMS, Terms


class QueueFull(Exception):
    """The queue holds as many requests as it may; the message says how many."""


@dataclass(eq=False)
class Sequence:
    """One request as the scheduler sees it: its prompt (token ids), how much of it is done, and its row.

    `cached` is how many of its tokens a row still had.
    """

    prompt: list
    terms: Terms = NO_TERMS
    prefilled: int = field(default=0, init=False)
    cached: int = field(default=0, init=False)
    row: int | None = field(default=None, init=False)

    @property
    def prompt_length(self):
        """How many tokens the prompt has."""
        return len(self.prompt)


class Copy(NamedTuple):
    """Make the first `length` tokens of row `source` all that row `target` holds. Both may be the same."""

    source: int
    target: int
    length: int


class Swap(NamedTuple):
    """Exchange what two rows hold."""

    first: int
    second: int


@dataclass(frozen=True)
class Chunk:
    """Prompt tokens start..stop-1 of a sequence, to be appended to its row after `moves`."""

    sequence: Sequence
    start: int
    stop: int
    moves: tuple[Copy | Swap, ...] = ()

    @property
    def is_last(self):
        """Whether the prompt ends here: its first token can be sampled."""
        return self.stop == self.sequence.prompt_length


class Scheduler:
    """Rows and queue of one engine with `slots` rows; `chunk` is at least 3."""

    def __init__(self, slots, max_queue_size, chunk):
        self.slots, self.max_queue_size, self.chunk = slots, max_queue_size, chunk
        self.waiting = deque()
        self.prefilling = None
        self.running = []
        self._kept = PrefixTree()  # every row's prompt, behind its salt

    @property
    def slots_used(self):
        """How many rows are taken."""
        return len(self.running) + (self.prefilling is not None)

    @property
    def is_idle(self):
        """Whether a step would do nothing."""
        return not (self.waiting or self.prefilling or self.running)

    def submit(self, sequence):
        """Put `sequence` in the queue; raise QueueFull. A request for which a row is free does not count as queued."""
        if len(self.waiting) >= self.max_queue_size + self.slots - self.slots_used:
            raise QueueFull(
                f"the queue is full: {self.max_queue_size} requests wait for {self.slots} slots; try again later"
            )
        self.waiting.append(sequence)

    def next_chunk(self, budget):
        """Return the next Chunk of at most `budget` tokens, None when no prompt waits for which there is room."""
        sequence, moves = self.prefilling, ()
        if sequence is None:
            if not self.waiting or self.slots_used == self.slots:
                return None
            sequence = self.waiting[0]
            matched, rows = self._kept.match(_kept_of(sequence, sequence.prompt_length))
            sequence.prefilled = max(0, min(matched - 1, sequence.prompt_length - 2))
        left = sequence.prompt_length - sequence.prefilled
        size = min(left, budget)
        size -= left - size == 1  # two for the last chunk
        if size < min(left, 2):
            return None  # the next step has room for more
        if sequence is not self.prefilling:
            self.prefilling = self.waiting.popleft()
            moves = self._take_row(sequence, matched, rows)
        return Chunk(sequence, sequence.prefilled, sequence.prefilled + size, moves)

    def prefilled(self, chunk):
        """Note that `chunk` was computed; return the moves that its sequence needs to join the running rows."""
        sequence = chunk.sequence
        sequence.prefilled = chunk.stop
        if not chunk.is_last:
            return ()
        self.prefilling = None
        self._keep(sequence)
        self.running.append(sequence)
        return self._place(sequence, len(self.running) - 1)

    def remove(self, sequence, is_broken=False):
        """Take `sequence` out, wherever it is; return the moves that close the gap it leaves.

        Its prompt stays in its row until the row is needed, unless it `is_broken`.
        """
        if sequence.row is None:
            self.waiting.remove(sequence)
            return ()
        if sequence is self.prefilling:
            self.prefilling = None
            self._keep(sequence)
            moves = ()
        else:
            moves = self._leave(sequence)
        if is_broken:
            self._kept.drop(sequence.row)
        return moves

    def _leave(self, sequence):
        """Take a running sequence's row from it; the row goes behind those that run, with its prompt and no answer."""
        row, last = sequence.row, self.running.pop()
        self._kept.touch(row)
        moves = (Copy(row, row, sequence.prompt_length),)
        if last is sequence:
            return moves
        self.running[row] = last
        sequence.row = last.row
        return moves + self._place(last, row)

    def _take_row(self, sequence, matched, rows):
        """Give `sequence` the first row that does not run; return the moves that bring what `rows` have of it there."""
        target, cached = len(self.running), sequence.prefilled
        free = range(target, self.slots)
        # A row that has nothing else would be a double of the new one.
        whole = [row for row in rows if row in free and self._kept.length(row) == matched]
        taken = whole[0] if whole else self._kept.least(free)
        source = taken if taken in rows or not rows else rows[0]
        moves = [Copy(taken, taken, cached if source == taken else 0)]
        self._kept.drop(taken)
        sequence.row, sequence.cached = taken, cached
        moves += self._place(sequence, target)
        source = {taken: target, target: taken}.get(source, source)
        if source != target:
            moves.append(Copy(source, target, cached))
        return tuple(moves)

    def _keep(self, sequence):
        """Remember what the row of `sequence` has of its prompt. One token alone is computed as decoding does it."""
        if sequence.prefilled > 1:
            self._kept.hold(sequence.row, _kept_of(sequence, sequence.prefilled))

    def _place(self, sequence, row):
        """Move `sequence` to `row`, and what that holds to the row that it leaves."""
        if sequence.row == row:
            return ()
        move = Swap(sequence.row, row)
        self._kept.swap(*move)
        sequence.row = row
        return (move,)


def _kept_of(sequence, length):
    """Return what the tree knows the first `length` tokens of the prompt by."""
    return [sequence.terms.cache_salt, *sequence.prompt[:length]]
