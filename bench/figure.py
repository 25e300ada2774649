"""A figure: a ratio or a difference between two things that were measured in turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROUNDS = 7


@dataclass(frozen=True)
class Figure:
    """One figure with its target: `value` is the median over rounds of what `what` says."""

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


def ratio(name: str, what: str, over: list[float], under: list[float], target: float, at_least: bool) -> Figure:
    """Fold paired times to the median of `over / under`."""
    values = [left / right for left, right in zip(over, under, strict=True)]
    value = statistics.median(values)
    met = value >= target if at_least else value <= target
    detail = {"over_s": statistics.median(over), "under_s": statistics.median(under)}
    words = f"{'at least' if at_least else 'at most'} {target}"
    return Figure(name, what, value, min(values), max(values), words, met, detail)
