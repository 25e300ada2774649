"""Rows and queue, with the KV of every row played by a list of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler import QueueFull, Scheduler, Sequence, Swap
from terms import Terms

SLOTS, CHUNK = 3, 4


class Played:
    """A scheduler whose rows hold what they were given: (salt, token), and (sequence, position) of an answer."""

    def __init__(self, slots: int = SLOTS, max_queue_size: int = 100) -> None:
        self.scheduler = Scheduler(slots, max_queue_size, CHUNK)
        self.rows: list[list[tuple[object, int]]] = [[] for _ in range(slots)]
        self.admitted: list[Sequence] = []
        self.copied = 0

    def submit(self, prompt: list[int], salt: str = "") -> Sequence:
        sequence = Sequence(prompt, Terms(cache_salt=salt))
        self.scheduler.submit(sequence)
        return sequence

    def step(self) -> int:
        """Prefill and decode as the engine does; return the prompt tokens of this step."""
        budget = CHUNK
        while budget and (chunk := self.scheduler.next_chunk(budget)):
            sequence = chunk.sequence
            assert chunk.stop - chunk.start > 1 or sequence.prompt_length == 1
            if sequence not in self.admitted:
                self.admitted.append(sequence)
                assert chunk.start == sequence.cached
            self.move(chunk.moves)
            assert self.rows[sequence.row] == prompt_of(sequence)[: chunk.start], "what it was given is not its prompt"
            self.rows[sequence.row] += prompt_of(sequence)[chunk.start : chunk.stop]
            self.move(self.scheduler.prefilled(chunk))
            budget -= chunk.stop - chunk.start
        for row, sequence in enumerate(self.scheduler.running):
            self.rows[row].append((sequence, len(self.rows[row])))
        return CHUNK - budget

    def remove(self, sequence: Sequence, is_broken: bool = False) -> None:
        self.move(self.scheduler.remove(sequence, is_broken))

    def move(self, moves) -> None:
        for move in moves:
            if isinstance(move, Swap):
                first, second = move
                self.rows[first], self.rows[second] = self.rows[second], self.rows[first]
            else:
                self.rows[move.target] = self.rows[move.source][: move.length]
                self.copied += move.length * (move.source != move.target)

    def finish(self, *sequences: Sequence) -> None:
        """Prefill all that waits, then end `sequences`."""
        while self.step():
            pass
        for sequence in sequences:
            self.remove(sequence)

    def check(self) -> None:
        scheduler = self.scheduler
        assert [sequence.row for sequence in scheduler.running] == list(range(len(scheduler.running)))
        assert scheduler.slots_used <= scheduler.slots
        if scheduler.prefilling:
            assert len(scheduler.running) <= scheduler.prefilling.row < scheduler.slots
        held = [*scheduler.running, *([scheduler.prefilling] if scheduler.prefilling else [])]
        for sequence in held:
            row = self.rows[sequence.row]
            answer = [(sequence, position) for position in range(sequence.prompt_length, len(row))]
            assert row == (prompt_of(sequence) + answer)[: len(row)], "a row holds another's KV"


def prompt_of(sequence: Sequence) -> list[tuple[object, int]]:
    return [(sequence.terms.cache_salt, token) for token in sequence.prompt]


# Of two tokens only: prompts begin alike.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=15)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.tuples(prompts, st.sampled_from(["", "salt"]))),
        st.tuples(st.just("step"), st.just(0)),
        st.tuples(st.sampled_from(["remove", "break"]), st.integers(0, 100)),
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
            alive.append(played.submit(*value))
            arrived.append(alive[-1])
        elif action == "step":
            assert played.step() <= CHUNK
        elif alive:
            played.remove(alive.pop(value % len(alive)), action == "break")
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
    running = played.submit([1] * 2)
    played.step()
    before = len(played.rows[running.row])
    played.submit([2] * (10 * CHUNK))
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
    for number, length in enumerate(lengths):
        played.submit([number] * length)
    assert [played.step() for _ in steps] == steps
    assert len(played.scheduler.running) == len(lengths)


def test_short_prompts_share_a_step() -> None:
    played = Played()
    for _ in range(3):
        played.submit([1])
    assert played.step() == 3
    assert len(played.scheduler.running) == 3


def test_a_full_queue_refuses_and_takes_again() -> None:
    played = Played(slots=2, max_queue_size=3)
    sequences = [played.submit([1]) for _ in range(5)]
    with pytest.raises(QueueFull, match="3 requests wait for 2 slots"):
        played.submit([1])
    played.step()
    assert len(played.scheduler.waiting) == 3
    played.remove(sequences[-1])
    played.submit([1])
    with pytest.raises(QueueFull):
        played.submit([1])


SYSTEM = list(range(20))


def test_a_prompt_is_computed_from_where_it_differs_from_those_before() -> None:
    played = Played()
    first = played.submit([*SYSTEM, 40, 41, 42])
    played.finish()
    second = played.submit([*SYSTEM, 50, 51])  # while the first still runs
    played.finish(first)
    third = played.submit([*SYSTEM, 50, 60, 61])
    again = played.submit([*SYSTEM, 50, 51])
    other = played.submit([*SYSTEM, 50, 51], "salt")
    played.finish(second)
    played.finish(third, again, other)
    assert [each.cached for each in (first, second, third, again, other)] == [0, 20, 21, 20, 0]


def test_the_next_turn_of_a_talk_takes_the_row_itself() -> None:
    played = Played()
    turns = [[*SYSTEM, *range(100, 100 + 5 * turn)] for turn in range(1, 6)]
    for turn in turns:
        played.finish(played.submit(turn))
        other = [played.submit([200]) for _ in range(2)]
        played.finish(*other)
    assert played.copied == 0
    assert played.submit([*turns[-1], 7, 8]).cached == 0
    played.finish()
    assert played.scheduler.running[-1].cached == len(turns[-1])


def test_who_was_used_longest_ago_makes_room() -> None:
    played = Played(slots=3)
    prompts = [[number] * 8 for number in range(3)]
    for prompt in prompts:
        played.finish(played.submit(prompt))
    played.finish(played.submit(prompts[0]))
    played.finish(played.submit([9] * 8))
    cached = []
    for prompt in (prompts[0], prompts[2], prompts[1]):
        sequence = played.submit(prompt)
        played.finish(sequence)
        cached.append(sequence.cached)
    assert cached == [6, 6, 0]


def test_who_ended_last_was_used_last() -> None:
    played = Played(slots=2)
    long, short = played.submit([1] * 8), played.submit([2] * 8)
    played.finish(short)
    played.finish(long)
    played.finish(played.submit([3] * 8))
    again = played.submit([1] * 8)
    played.finish(again)
    assert again.cached == 6


def test_answers_and_prompts_of_one_token_are_not_kept() -> None:
    """Decoding computes them, which gives other bits than prefill."""
    played = Played(slots=2)
    played.finish(played.submit([1, 1, 1, 1]))
    assert {len(row) for row in played.rows} == {0, 4}
    first, second = played.submit([2]), played.submit([3])
    played.finish(first, second)
    cached = []
    for prompt in ([2, 5, 5, 5], [3, 5, 5, 5], [1, 1, 1, 1]):
        sequence = played.submit(prompt)
        played.finish(sequence)
        cached.append(sequence.cached)
    assert cached == [0, 0, 0]


def test_a_broken_row_is_forgotten() -> None:
    played = Played()
    broken = played.submit(SYSTEM)
    played.finish()
    played.remove(broken, is_broken=True)
    again = played.submit(SYSTEM)
    played.finish(again)
    assert again.cached == 0
