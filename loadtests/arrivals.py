"""When requests are meant to start: the whole schedule, computed ahead.

Pure: knows nothing of clocks, servers or scenarios. What the generator does with a schedule, and how late it
was, is the locustfile's and the verdict's.
"""

import random
from typing import Literal, get_args

Process = Literal["constant", "poisson"]
PROCESSES: tuple[str, ...] = get_args(Process)


def schedule(process: Process, rate: float, duration_s: float, seed: int) -> list[float]:
    """Return the intended starts in seconds from the beginning, ascending, all in [0, duration_s).

    `rate` is in requests/s. `constant` starts at 0 and keeps 1/rate between starts. `poisson` draws the gaps
    from an exponential distribution with mean 1/rate, so that the starts are a Poisson process (its first gap
    comes before the first request); equal seeds give equal schedules. A short Poisson schedule can be empty.
    """
    if process == "constant":
        # index / rate, not a running sum: no rounding error piles up over a long run.
        return [index / rate for index in range(_count_below(rate, duration_s))]
    draw = random.Random(seed)
    starts = []
    start = draw.expovariate(rate)
    while start < duration_s:
        starts.append(start)
        start += draw.expovariate(rate)
    return starts


def _count_below(rate: float, duration_s: float) -> int:
    """How many of 0, 1/rate, 2/rate, ... lie below `duration_s`, whichever way the product was rounded."""
    count = int(rate * duration_s)
    return count + 1 if count / rate < duration_s else count
