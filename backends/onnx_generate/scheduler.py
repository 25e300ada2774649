"""Who runs when: a bounded queue, and rows that requests join and leave between any two steps. No numpy, no clock.

Rows 0..n-1 run: each decodes one token a step. At most one request is in mid prefill, in a row behind them. A row that
leaves changes places with the last one, so that running rows stay the first ones; what it had of its prompt stays there
(`rows.py`).

Prompts are prefilled in the order of `waiting.py` and in chunks: a step carries so many prompt tokens, of as many
prompts as fit, so a long prompt delays running requests by one chunk a step and no more. Where a prompt is cut makes no
difference to its tokens, bit for bit, but for a chunk of one: that goes through the kernels of decoding (as does the
last token of 129, 257, ... where an engine has one graph alone), and with int8 weights the last bits decide near-ties.
So no chunk has one token, but of a prompt of one.

A request of a better priority level takes the place of the one in mid prefill, and where no row is free that of the
running one that is of the worst level, and among these has the shortest answer. That one waits again, before all of its
level and tenant; then its prompt is prefilled, and its answer decoded again, token by token as before, which gives the
same bits. Who started because it was its turn is not interrupted, nobody is more than MOST_PREEMPTIONS times: so
everyone comes to an end.
"""

from dataclasses import dataclass, field

from pace import Pace
from rows import Rows
from shares import Shares
from terms import NO_TERMS, Terms
from waiting import Waiting

# 256 prompt tokens at once take 0.9 of the time of four times 64 (docs/integer-graphs.md).
ALONE = 4
# How often one request may be interrupted.
MOST_PREEMPTIONS = 3


class QueueFull(Exception):
    """The queue holds as many requests as it may, or longer ones than the caller can wait for; the message says so."""


@dataclass(eq=False)
class Sequence:
    """One request as the scheduler sees it: prompt, answer so far (token ids), and how much of both its row has.

    `limit` is the most tokens that the answer may have, `cached` how many prompt tokens a row still had, `preempted`
    how often it was interrupted.
    """

    prompt: list
    terms: Terms = NO_TERMS
    limit: int = 1
    output: list = field(default_factory=list, init=False)
    prefilled: int = field(default=0, init=False)
    decoded: int = field(default=0, init=False)
    cached: int = field(default=0, init=False)
    preempted: int = field(default=0, init=False)
    has_turn: bool = field(default=False, init=False)
    row: int | None = field(default=None, init=False)

    @property
    def prompt_length(self):
        """How many tokens the prompt has."""
        return len(self.prompt)

    @property
    def has_started(self):
        """Whether it has a row, or had one."""
        return self.row is not None or self.preempted > 0

    def yields_to(self, other):
        """Whether `other` may have its row."""
        is_worse = self.terms.priority_level > other.terms.priority_level
        return is_worse and not self.has_turn and self.preempted < MOST_PREEMPTIONS


@dataclass(frozen=True)
class Chunk:
    """Prompt tokens start..stop-1 of a sequence, to be appended to its row after `moves`."""

    sequence: Sequence
    start: int
    stop: int
    moves: tuple = ()

    @property
    def is_last(self):
        """Whether the prompt ends here: the next token can be sampled."""
        return self.stop == self.sequence.prompt_length


class Scheduler:
    """Rows and queue of one engine with `slots` rows; `chunk`, at least 3, is the most prompt tokens beside others."""

    def __init__(self, slots, max_queue_size, chunk):
        self.slots, self.max_queue_size = slots, max_queue_size
        self.pace = Pace(chunk)
        self._shares = Shares()
        self.waiting = Waiting(self._shares)
        self.prefilling = None
        self.running = []
        self.preemptions = 0
        self._rows = Rows(slots)

    def __iter__(self):
        """Give every request that is here."""
        yield from self.waiting
        yield from self._taken

    @property
    def _taken(self):
        return [*self.running, *([self.prefilling] if self.prefilling else [])]

    @property
    def slots_used(self):
        """How many rows are taken."""
        return len(self._taken)

    @property
    def is_idle(self):
        """Whether a step would do nothing."""
        return not (self.waiting or self.prefilling or self.running)

    @property
    def budget(self):
        """How many prompt tokens the next step may carry.

        As many as it can for a prompt that needs no more, since cutting costs time, and where no fewer start than run;
        ALONE times as many where nobody runs.
        """
        if not self.running:
            return ALONE * self.pace.chunk
        starting = bool(self.prefilling) + min(len(self.waiting), self.slots - self.slots_used)
        return self.pace.budget(is_free=starting >= len(self.running) or self._is_short())

    def submit(self, sequence):
        """Put `sequence` in the queue; a request for which a row is free does not count as queued.

        Raises QueueFull: it cannot be queued, or would not start before its terms say that it must.
        """
        if len(self.waiting) >= self.max_queue_size + self.slots - self.slots_used:
            raise QueueFull(
                f"the queue is full: {self.max_queue_size} requests wait for {self.slots} slots; try again later"
            )
        within_s = sequence.terms.start_within_s
        if within_s is not None and (start_s := self._start_s(sequence)) is not None and start_s > within_s:
            raise QueueFull(
                f"the queue is full for longer than the request may wait: it would start in about {start_s:.1f} s, "
                f"later than the {within_s:g} s that its timeout allows; try again later, or allow more"
            )
        self._shares.enter(sequence.terms.tenant)
        self.waiting.add(sequence)

    def next_chunk(self, budget):
        """Return the next Chunk of at most `budget` tokens, None when no prompt waits for which there is room."""
        best = self.waiting.best()
        if best and self.prefilling and self.prefilling.yields_to(best):
            self._preempt(self.prefilling)
        moves = []
        if not self.prefilling:
            sequence, victim = self._candidate()
            if not (sequence and _size(sequence.prompt_length - self._rows.match(sequence), budget)):
                return None  # the next step has room for more
            moves = (self._preempt(victim) if victim else []) + self._start(sequence)
        sequence = self.prefilling
        size = _size(sequence.prompt_length - sequence.prefilled, budget)
        return Chunk(sequence, sequence.prefilled, sequence.prefilled + size, tuple(moves)) if size else None

    def prefilled(self, chunk):
        """Note that `chunk` was computed."""
        chunk.sequence.prefilled = chunk.stop
        self._shares.charge(chunk.sequence.terms.tenant, chunk.stop - chunk.start)

    def join(self):
        """Let the request whose prompt is computed run; return the moves that put it behind those that do."""
        sequence, self.prefilling = self.prefilling, None
        self._rows.keep(sequence)
        self.running.append(sequence)
        return self._rows.place(sequence, len(self.running) - 1)

    def decoded(self):
        """Note that every running request has one token more in its row."""
        for sequence in self.running:
            sequence.decoded += 1
            self._shares.charge(sequence.terms.tenant, 1)

    def remove(self, sequence, is_broken=False):
        """Take `sequence` out, wherever it is; return the moves that close the gap it leaves.

        Its prompt stays in its row until the row is needed, unless it `is_broken`.
        """
        self._shares.leave(sequence.terms.tenant)
        if sequence.row is None:
            self.waiting.remove(sequence)
            return []
        moves = self._vacate(sequence)
        if is_broken:
            self._rows.forget(sequence.row)
        return moves

    def _candidate(self):
        """Return who is next to start, None when nobody can; and the running request that gives its row up for it."""
        if self.slots_used < self.slots:
            return self.waiting.next(), None
        best = self.waiting.best()
        yielding = [each for each in self.running if best and each.yields_to(best)]
        if not yielding:
            return None, None
        return best, max(yielding, key=lambda each: (each.terms.priority_level, -len(each.output)))

    def _is_short(self):
        """Whether a step has room for all that must be computed of the prompt that is next."""
        sequence = self.prefilling or self._candidate()[0]
        if not sequence:
            return False
        had = self._rows.match(sequence) if sequence.row is None else sequence.cached
        return sequence.prompt_length - had <= self.pace.chunk

    def _start(self, sequence):
        sequence.has_turn = self.waiting.start(sequence)
        self.prefilling = sequence
        sequence.prefilled, sequence.decoded = self._rows.match(sequence), 0
        if not sequence.preempted:
            sequence.cached = sequence.prefilled
        return self._rows.take(sequence, len(self.running))

    def _preempt(self, sequence):
        moves = self._vacate(sequence)
        sequence.row = None
        sequence.preempted += 1
        self.preemptions += 1
        self.waiting.add(sequence, is_first=True)
        return moves

    def _vacate(self, sequence):
        """Take the row of `sequence` from it; it lies behind those that run then."""
        if sequence is self.prefilling:
            self.prefilling = None
            self._rows.keep(sequence)
            return []
        last = self.running.pop()
        if last is not sequence:
            self.running[sequence.row] = last
        return self._rows.leave(sequence, last)

    def _start_s(self, sequence):
        """Return in how many seconds `sequence` would start, None when too little was measured to tell."""
        level = sequence.terms.priority_level
        ahead = [(each.prompt_length, each.limit) for each in self.waiting if each.terms.priority_level <= level]
        left = [(len(each.output), each.limit) for each in self._taken if not each.yields_to(sequence)]
        left += [(0, 0)] * (self.slots - len(left))
        return self.pace.start_s(left, ahead, self.budget)


def _size(left, budget):
    """Return how many of the `left` tokens of a prompt a step with room for `budget` carries; two stay for the last."""
    size = min(left, budget)
    size -= left - size == 1
    return size if size >= min(left, 2) else 0
