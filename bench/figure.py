"""A figure: a ratio or a difference between two things that were measured in turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtests.judging.intervals import lower_rank, upper_rank

ROUNDS = 7
# On either side of a figure's interval, which so holds the median in 95 % of all runs.
ALPHA = 0.025


@dataclass(frozen=True)
class Figure:
    """One figure with its target: `value` is the median over rounds of what `what` says.

    `low` and `high` are its 95 % interval (of a ratio), or the least and the most.
    """

    name: str
    what: str
    value: float
    low: float
    high: float
    target: str
    met: bool
    detail: dict[str, float]


def seconds(call: Callable[[], Any]) -> float:
    """Return how long `call` takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def in_turns(left: Callable[[], Any], right: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Time two calls in turns, after one round of each that does not count."""
    left(), right()
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        # Whoever goes first finds the caches of the other: they take turns in that as well.
        for side in (0, 1) if number % 2 else (1, 0):
            times[side].append(seconds((left, right)[side]))
    return times


def ratio(
    name: str, what: str, over: list[float], under: list[float], target: float, at_least: bool, proved: bool = False
) -> Figure:
    """Fold paired times to the median of `over / under`; where it is to be `proved`, all of its interval must do."""
    values = [left / right for left, right in zip(over, under, strict=True)]
    value, (low, high) = statistics.median(values), interval(values)
    judged = (low if at_least else high) if proved else value
    met = judged >= target if at_least else judged <= target
    detail = {"over_s": statistics.median(over), "under_s": statistics.median(under)}
    words = f"{'at least' if at_least else 'at most'} {target}{', proved' if proved else ''}"
    return Figure(name, what, value, low, high, words, met, detail)


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, by ranks; the least and the most where they are too few for one.

    Distribution-free, as one round in which the machine did something else must not count for more than one.
    """
    found, count = sorted(values), len(values)
    lowest, highest = lower_rank(count, 0.5, ALPHA), upper_rank(count, 0.5, ALPHA)
    return found[(lowest or 1) - 1], found[(highest or count) - 1]
