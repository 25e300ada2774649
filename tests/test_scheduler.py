"""Rows and queue, with the KV of every row played by a list of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler import QueueFull, Scheduler, Sequence

SLOTS, CHUNK = 3, 4


class Played:
    """A scheduler whose rows hold what they were given: (sequence, position) for every token."""

    def __init__(self, slots: int = SLOTS, max_queue_size: int = 100) -> None:
        self.scheduler = Scheduler(slots, max_queue_size, CHUNK)
        self.rows: list[list[tuple[Sequence, int]]] = [[] for _ in range(slots)]
        self.admitted: list[Sequence] = []

    def submit(self, length: int) -> Sequence:
        sequence = Sequence(length)
        self.scheduler.submit(sequence)
        return sequence

    def step(self) -> int:
        """Prefill and decode as the engine does; return the prompt tokens of this step."""
        budget = CHUNK
        while budget and (chunk := self.scheduler.next_chunk(budget)):
            row = chunk.sequence.row
            assert chunk.stop - chunk.start > 1 or chunk.sequence.prompt_length == 1
            if chunk.start == 0:
                self.rows[row] = []
                self.admitted.append(chunk.sequence)
            self.rows[row] += [(chunk.sequence, position) for position in range(chunk.start, chunk.stop)]
            self.move(self.scheduler.prefilled(chunk))
            budget -= chunk.stop - chunk.start
        for row, sequence in enumerate(self.scheduler.running):
            self.rows[row].append((sequence, len(self.rows[row])))
        return CHUNK - budget

    def remove(self, sequence: Sequence) -> None:
        self.move(self.scheduler.remove(sequence))

    def move(self, move) -> None:
        if move:
            self.rows[move.target] = list(self.rows[move.source])

    def check(self) -> None:
        scheduler = self.scheduler
        assert [sequence.row for sequence in scheduler.running] == list(range(len(scheduler.running)))
        assert scheduler.slots_used <= scheduler.slots
        if scheduler.prefilling:
            assert len(scheduler.running) <= scheduler.prefilling.row < scheduler.slots
        held = [*scheduler.running, *([scheduler.prefilling] if scheduler.prefilling else [])]
        for sequence in held:
            row = self.rows[sequence.row]
            assert row == [(sequence, position) for position in range(len(row))], "a row holds another's KV"


actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 15)),
        st.tuples(st.just("step"), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 100)),
    ),
    max_size=80,
)


@given(actions, st.integers(1, 4))
def test_every_row_holds_its_own_tokens_whoever_joins_and_leaves(actions, slots) -> None:
    played = Played(slots)
    alive: list[Sequence] = []
    arrived: list[Sequence] = []
    for action, value in actions:
        if action == "submit":
            alive.append(played.submit(value))
            arrived.append(alive[-1])
        elif action == "step":
            assert played.step() <= CHUNK
        elif alive:
            played.remove(alive.pop(value % len(alive)))
        played.check()
    order = [arrived.index(sequence) for sequence in played.admitted]
    assert order == sorted(order), "first come, first served"
    for _ in range(200):
        if played.scheduler.is_idle:
            break
        played.step()
        played.check()
        while played.scheduler.running:
            played.remove(played.scheduler.running[0])
            played.check()
    assert played.scheduler.is_idle
    assert played.scheduler.slots_used == 0


def test_a_long_prompt_delays_running_requests_by_one_chunk_a_step() -> None:
    played = Played()
    running = played.submit(2)
    played.step()
    before = len(played.rows[running.row])
    played.submit(10 * CHUNK)
    for step in range(1, 11):
        assert played.step() == CHUNK
        assert len(played.rows[running.row]) == before + step


@pytest.mark.parametrize(
    ("lengths", "steps"),
    [
        ([1], [1]),
        ([5], [3, 2]),
        ([9], [4, 3, 2]),
        ([3, 1], [4]),
        ([3, 2], [3, 2]),
        ([2, 3], [2, 3]),
        ([2, 4], [4, 2]),
        ([1, 1, 3], [2, 3]),
    ],
)
def test_no_chunk_has_one_token_but_of_a_prompt_of_one(lengths, steps) -> None:
    played = Played()
    for length in lengths:
        played.submit(length)
    assert [played.step() for _ in steps] == steps
    assert len(played.scheduler.running) == len(lengths)


def test_short_prompts_share_a_step() -> None:
    played = Played()
    for _ in range(3):
        played.submit(1)
    assert played.step() == 3
    assert len(played.scheduler.running) == 3


def test_a_full_queue_refuses_and_takes_again() -> None:
    played = Played(slots=2, max_queue_size=3)
    sequences = [played.submit(1) for _ in range(5)]
    with pytest.raises(QueueFull, match="3 requests wait for 2 slots"):
        played.submit(1)
    played.step()
    assert len(played.scheduler.waiting) == 3
    played.remove(sequences[-1])
    played.submit(1)
    with pytest.raises(QueueFull):
        played.submit(1)
