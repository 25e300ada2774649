"""Who runs when: a bounded queue, and rows that requests join and leave between any two steps. No numpy, no clock.

Rows 0..n-1 run: each decodes one token a step. At most one request is in mid prefill, in a row behind them. A row that
leaves is filled by the last one, so that running rows stay the first ones; that is the only time when KV is copied.

Prompts are prefilled in order of arrival and in chunks: a step carries at most `chunk` prompt tokens, of as many
prompts as fit, so a long prompt delays running requests by one chunk a step and no more. Where a prompt is cut makes no
difference to its tokens, bit for bit, but for a chunk of one: that goes through the attention kernel of decoding, and
with int8 weights the last bits decide near-ties. So no chunk has one token, but of a prompt of one.
"""

from collections import deque
from dataclasses import dataclass


class QueueFull(Exception):
    """The queue holds as many requests as it may; the message says how many."""


@dataclass(eq=False)
class Sequence:
    """One request as the scheduler sees it: how long its prompt is, how much of it is done, and its row."""

    prompt_length: int
    prefilled: int = 0
    row: int | None = None


@dataclass(frozen=True)
class Chunk:
    """Prompt tokens start..stop-1 of a sequence, to be appended to its row."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def is_last(self):
        """Whether the prompt ends here: its first token can be sampled."""
        return self.stop == self.sequence.prompt_length


@dataclass(frozen=True)
class Move:
    """Copy a row's KV from `source` to `target`."""

    source: int
    target: int


class Scheduler:
    """Rows and queue of one engine with `slots` rows; `chunk` is at least 3."""

    def __init__(self, slots, max_queue_size, chunk):
        self.slots, self.max_queue_size, self.chunk = slots, max_queue_size, chunk
        self.waiting = deque()
        self.prefilling = None
        self.running = []

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
        sequence = self.prefilling
        if sequence is None:
            if not self.waiting or self.slots_used == self.slots:
                return None
            sequence = self.waiting[0]
        left = sequence.prompt_length - sequence.prefilled
        size = min(left, budget)
        size -= left - size == 1  # two for the last chunk
        if size < min(left, 2):
            return None  # the next step has room for more
        if sequence is not self.prefilling:
            self.prefilling = self.waiting.popleft()
            sequence.row = len(self.running)
        return Chunk(sequence, sequence.prefilled, sequence.prefilled + size)

    def prefilled(self, chunk):
        """Note that `chunk` was computed; return the Move, if any, that its sequence needs to join the running rows."""
        sequence = chunk.sequence
        sequence.prefilled = chunk.stop
        if not chunk.is_last:
            return None
        self.prefilling = None
        self.running.append(sequence)
        return self._place(sequence, len(self.running) - 1)

    def remove(self, sequence):
        """Take `sequence` out, wherever it is; return the Move, if any, that closes the gap it leaves."""
        if sequence is self.prefilling:
            self.prefilling = None
        elif sequence.row is None:
            self.waiting.remove(sequence)
        else:
            last = self.running.pop()
            if last is not sequence:
                self.running[sequence.row] = last
                return self._place(last, sequence.row)
        return None

    def _place(self, sequence, row):
        move = Move(sequence.row, row) if sequence.row != row else None
        sequence.row = row
        return move
