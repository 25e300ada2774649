"""Who of those that wait is next, and what tenants had."""

import pytest
from scheduler import Sequence
from shares import Shares
from terms import Terms
from waiting import TURN, Waiting


def started(waiting: Waiting, number: int) -> list[tuple[int, bool]]:
    """Start so many, and put one like each in its place; return their levels, and who had a turn."""
    found = []
    for _ in range(number):
        sequence = waiting.next()
        found.append((sequence.terms.priority_level, waiting.start(sequence)))
        waiting.add(Sequence([1], sequence.terms))
    return found


@pytest.mark.parametrize("levels", [(1, 9), (4, 5, 6), (1, 2, 3, 4, 5, 6, 7, 8, 9)])
def test_each_level_has_its_part_and_the_best_has_the_rest(levels) -> None:
    shares, rounds = Shares(), 20
    shares.enter("")
    waiting = Waiting(shares)
    for level in levels:
        for _ in range(2):
            waiting.add(Sequence([1], Terms(level)))
    starts = started(waiting, rounds * (TURN + len(levels) - 1))
    best, *others = levels
    for level in others:
        times = [at for at, (each, _) in enumerate(starts) if each == level]
        # The first turns of all come due at once.
        assert max(after - before for before, after in zip([0, *times], times, strict=False)) <= TURN + 2 * len(others)
        assert len(times) <= rounds
    assert all(has_turn == (level != best) for level, has_turn in starts)
    assert starts[:TURN] == [(best, False)] * TURN
    assert starts[TURN][0] != best


def test_who_is_put_back_is_the_first_of_its_level_and_tenant() -> None:
    shares = Shares()
    shares.enter("")
    waiting = Waiting(shares)
    first, second, back = (Sequence([1]) for _ in range(3))
    waiting.add(first)
    waiting.add(second)
    waiting.add(back, is_first=True)
    assert list(waiting) == [back, first, second]
    waiting.remove(first)
    assert (waiting.next(), len(waiting)) == (back, 2)
    waiting.remove(back)
    waiting.remove(second)
    assert (waiting.next(), waiting.best(), len(waiting)) == (None, None, 0)


def test_what_a_tenant_had_more_than_others_is_remembered_while_they_are_there_and_nothing_else() -> None:
    shares = Shares()
    tokens = {"much": 100, "there": 10, "little": 5}
    for tenant in tokens:
        shares.enter(tenant)
    for tenant, had in tokens.items():
        shares.charge(tenant, had)
    shares.leave("much")
    shares.leave("little")
    for tenant, had in (("much", 100), ("little", 10), ("new", 10)):
        shares.enter(tenant)
        assert shares.of(tenant) == had
    for tenant in ("much", "little", "new", "there"):
        shares.leave(tenant)
    shares.enter("much")
    assert shares.of("much") == 0
