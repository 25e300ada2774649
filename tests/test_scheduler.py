"""Rows and queue, with the KV of every row played by a list of tokens."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pace import LEAST, Pace
from rows import Swap
from scheduler import ALONE, QueueFull, Scheduler, Sequence
from terms import Terms

SLOTS, CHUNK = 3, 4


class Played:
    """A scheduler whose rows hold what they were given: (salt, token), and (sequence, position) of an answer."""

    def __init__(self, slots: int = SLOTS, max_queue_size: int = 100) -> None:
        self.scheduler = Scheduler(slots, max_queue_size, CHUNK)
        self.rows: list[list[tuple[object, int]]] = [[] for _ in range(slots)]
        self.admitted: list[Sequence] = []
        self.copied = 0

    def submit(self, prompt: list[int], **terms) -> Sequence:
        sequence = Sequence(prompt, Terms(**terms))
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
            if chunk.moves and not sequence.has_turn:
                levels = [each.terms.priority_level for each in self.scheduler.waiting]
                assert sequence.terms.priority_level <= min(levels, default=9)
            self.move(chunk.moves)
            assert self.rows[sequence.row] == prompt_of(sequence)[: chunk.start], "what it was given is not its prompt"
            self.rows[sequence.row] += prompt_of(sequence)[chunk.start : chunk.stop]
            self.scheduler.prefilled(chunk)
            if chunk.is_last:
                self.move(self.scheduler.join())
            budget -= chunk.stop - chunk.start
        for row, sequence in enumerate(self.scheduler.running):
            self.rows[row].append((sequence, len(self.rows[row])))
        self.scheduler.decoded()
        for sequence in self.scheduler.running:
            assert sequence.decoded <= len(sequence.output) + 1
            if sequence.decoded > len(sequence.output):
                sequence.output.append(0)
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
        assert len(scheduler.waiting) == len(list(scheduler.waiting))
        if scheduler.prefilling:
            assert len(scheduler.running) <= scheduler.prefilling.row < scheduler.slots
        held = [*scheduler.running, *([scheduler.prefilling] if scheduler.prefilling else [])]
        for sequence in held:
            row = self.rows[sequence.row]
            answer = [(sequence, position) for position in range(sequence.prompt_length, len(row))]
            assert row == (prompt_of(sequence) + answer)[: len(row)], "a row holds another's KV"
            assert len(row) == sequence.prefilled + sequence.decoded


def prompt_of(sequence: Sequence) -> list[tuple[object, int]]:
    return [(sequence.terms.cache_salt, token) for token in sequence.prompt]


# Of two tokens only: prompts begin alike.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=15)
terms = st.fixed_dictionaries(
    {
        "cache_salt": st.sampled_from(["", "salt"]),
        "priority_level": st.integers(4, 6),
        "tenant": st.sampled_from(["a", "b"]),
    }
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.tuples(prompts, terms)),
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
            prompt, terms = value
            alive.append(played.submit(prompt, **terms))
            arrived.append(alive[-1])
        elif action == "step":
            assert played.step() <= CHUNK
        elif alive:
            played.remove(alive.pop(value % len(alive)), action == "break")
        played.check()
    for level, tenant in product((4, 5, 6), "ab"):
        alike = [each for each in played.admitted if (each.terms.priority_level, each.terms.tenant) == (level, tenant)]
        assert alike == sorted(alike, key=arrived.index), "first come, first served"
    for _ in range(400):
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
    other = played.submit([*SYSTEM, 50, 51], cache_salt="salt")
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


def test_a_row_that_is_taken_for_a_prompt_of_one_token_is_forgotten() -> None:
    played = Played(slots=1)
    for prompt in (SYSTEM, [99], SYSTEM):
        sequence = played.submit(prompt)
        played.finish(sequence)
        assert sequence.cached == 0


def rounds(played: Played, answers: dict[Sequence, int]) -> None:
    """One step; then those end whose answers are complete."""
    played.step()
    played.check()
    for sequence in [each for each in played.scheduler.running if len(each.output) >= answers[each]]:
        played.remove(sequence)


def test_a_better_level_takes_the_row_of_the_shortest_of_the_worst_and_it_goes_on_where_it_was() -> None:
    played = Played(slots=3)
    long, short, middle = (
        played.submit([number] * 4, priority_level=level) for number, level in ((1, 6), (2, 6), (3, 4))
    )
    played.step()  # the middle level comes first
    played.remove(middle)
    for _ in range(2):
        played.step()
    middle = played.submit([4] * 4, priority_level=4)
    for _ in range(2):
        played.step()
    assert 0 < len(middle.output) < len(short.output) < len(long.output)
    urgent = played.submit([5] * 4, priority_level=1)
    played.step()
    assert [each.row is None for each in (middle, long, short, urgent)] == [False, False, True, False]
    said = len(short.output)
    played.remove(urgent)
    played.step()
    played.check()
    assert (short.cached, short.prefilled, short.decoded, len(short.output)) == (0, 4, 1, said)
    for _ in range(said):
        played.step()
        played.check()
    assert (short.decoded, len(short.output)) == (said + 1, said + 1)
    assert played.scheduler.preemptions == short.preempted == 1


def test_a_better_level_is_prefilled_before_who_is_in_mid_prefill() -> None:
    played = Played(slots=3)
    long = played.submit([1] * (4 * CHUNK))
    played.step()
    played.submit([2] * CHUNK, priority_level=5)
    urgent = played.submit([3] * CHUNK, priority_level=4)
    played.step()
    assert played.scheduler.running == [urgent]
    played.step()
    # It was not computed again, and it was not found at first.
    assert (long.preempted, long.prefilled, long.cached) == (1, 2 * CHUNK, 0)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_the_worst_level_comes_to_its_end_however_many_better_ones_come(slots, after) -> None:
    """They come without end, or each as soon as the worst one runs, so that it is interrupted as often as can be."""
    played = Played(slots)
    low = played.submit([1] * 6, priority_level=9)
    answers = {low: 5}
    for _ in range(200):
        better = [each for each in played.scheduler if each is not low]
        if len(better) < slots and (not after or (low in played.scheduler.running and low.decoded >= after)):
            answers[played.submit([2] * 4, priority_level=1)] = 2
        rounds(played, answers)
        if low not in played.scheduler:
            break
    assert len(low.output) == 5
    assert (low.preempted > 0) == (after > 0)


MOST = 20


@pytest.fixture
def paced() -> Played:
    """Four rows; a step may carry 20 prompt tokens, but fewer where they hold others up."""
    played = Played(slots=4)
    played.scheduler.pace = Pace(MOST)
    played.scheduler.pace.stepped(10, 0.01, 0.001)
    return played


def test_prompt_tokens_are_kept_back_where_fewer_start_than_run(paced) -> None:
    budgets = []
    for turn in range(3):
        for number in range(2):
            paced.submit([2 * turn + number] * (MOST + 1))
        budgets.append(paced.scheduler.budget)
        paced.finish()
    # 2 start and 0 run, 2 and 2, and then none may start.
    assert budgets == [ALONE * MOST, MOST, LEAST]


def test_a_prompt_that_needs_one_step_alone_is_not_cut(paced) -> None:
    for number in range(2):
        paced.submit([number])
        paced.finish()
    for prompt, budget in (
        (SYSTEM, MOST),
        ([50] * (MOST + 1), LEAST),
        ([*SYSTEM[:4], *[51] * MOST], MOST),
        ([*SYSTEM[:4], *[52] * (MOST + 1)], LEAST),
    ):
        sequence, budgets = paced.submit(prompt), set()
        while sequence not in paced.scheduler.running:
            budgets.add(paced.scheduler.budget)
            paced.step()
        assert budgets == {budget}
        paced.remove(sequence)


lengths = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=20, deadline=None)
@given(lengths, lengths, st.integers(1, 3), st.integers(0, 20))
def test_tenants_that_always_wait_get_the_same_number_of_tokens(first, second, slots, later) -> None:
    """Of whatever lengths their requests are, and whoever came first; the bound is Sheng et al.'s."""
    played, answers = Played(slots), {}
    had = {"a": 0, "b": 0}
    for step in range(later + 60):
        if step == later:
            base = had.copy()
        for tenant, (prompt, answer) in (("a", first), ("b", second)):
            waiting = sum(each.terms.tenant == tenant for each in played.scheduler.waiting)
            for _ in range(slots + CHUNK - waiting if tenant == "a" or step >= later else 0):
                sequence = played.submit([len(answers)] * prompt, tenant=tenant)
                answers[sequence] = answer
        rounds(played, answers)
        had = {tenant: sum(cost(each) for each in answers if each.terms.tenant == tenant) for tenant in had}
    most = max(prompt + answer for prompt, answer in (first, second))
    assert abs((had["a"] - base["a"]) - (had["b"] - base["b"])) <= 2 * slots * most


def test_who_has_gone_counts_no_more_for_where_others_begin() -> None:
    played = Played(slots=1)
    first, brief = played.submit([1] * CHUNK, tenant="much"), played.submit([2], tenant="little")
    played.step()
    played.remove(brief)
    later = [played.submit([number], tenant=tenant) for number, tenant in ((3, "much"), (4, "another"))]
    assert list(played.scheduler.waiting) == later
    played.remove(first)
    played.step()
    assert played.scheduler.running == later[:1], "both had the same, and it came first"


def cost(sequence: Sequence) -> int:
    return sequence.prefilled - sequence.cached + len(sequence.output)


def test_who_would_not_start_in_time_is_refused_at_once() -> None:
    played = Played(slots=1)
    sequences = [Sequence([1] * 4, limit=10) for _ in range(3)]
    for sequence in sequences:
        played.scheduler.submit(sequence)
    late = Sequence([2] * 4, Terms(queue_timeout=2_000_000), limit=10)
    played.scheduler.submit(late)  # nothing is known yet
    played.remove(late)
    played.step()
    for _ in range(20):
        played.scheduler.pace.stepped(4, 0.06, 0.04)
    played.scheduler.pace.ended(10, 10)
    with pytest.raises(QueueFull, match=r"would start in about 3\.\d s, later than the 2 s that its timeout allows"):
        played.scheduler.submit(Sequence([2] * 4, Terms(queue_timeout=2_000_000), limit=10))
    with pytest.raises(QueueFull):
        played.scheduler.submit(Sequence([2] * 4, Terms(timeout=2_000_000), limit=10))
    played.scheduler.submit(Sequence([2] * 4, Terms(queue_timeout=4_000_000), limit=10))
    # It would be the next to have the slot: that of the request which runs.
    played.scheduler.submit(Sequence([2] * 4, Terms(queue_timeout=500_000, priority_level=1), limit=10))
