"""How long pieces of work take, in turns, so that a drifting machine hits all alike."""

import statistics
import time
from collections.abc import Callable, Sequence

ROUNDS = 5


def median_seconds(works: Sequence[Callable[[], object]]) -> list[float]:
    """Do each of `works` in turns, ROUNDS times after one round to warm up; return the median seconds of each."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS + 1):
        for work, spent in zip(works, seconds, strict=True):
            begun = time.perf_counter()
            work()
            spent.append(time.perf_counter() - begun)
    return [statistics.median(spent[1:]) for spent in seconds]
