"""How much of a core a process uses, second by second: a generator without a free core measures itself."""

import contextlib
import time
from collections.abc import Callable

import psutil

from loadtests.judging.quantiles import nearest_rank

EVERY_S = 1.0


class CpuMeter:
    """Samples the CPU share of a process and its children: CPU seconds, all threads together, over the clock's.

    1 is one core in full; of several processes the busiest counts. A generator is one Python thread and gRPC's own:
    near 1 it has no time to be punctual.
    """

    def __init__(self, pid: int, clock: Callable[[], float] = time.monotonic):
        """Begin with the process `pid` as it is now."""
        self._process = psutil.Process(pid)
        self._clock = clock
        self._at, self._used = clock(), self._used_s()
        self._shares: list[float] = []

    def sample(self) -> None:
        """Take a sample when a second has gone by since the last one; call it oftener than that."""
        now = self._clock()
        if now - self._at < EVERY_S:
            return
        used = self._used_s()
        shares = [(used[pid] - self._used[pid]) / (now - self._at) for pid in used.keys() & self._used.keys()]
        self._shares += [max(shares)] if shares else []
        self._at, self._used = now, used

    def _used_s(self) -> dict[int, float]:
        """CPU seconds so far of each process that is alive."""
        used = {}
        with contextlib.suppress(psutil.Error):  # one ended in the meantime
            for process in (self._process, *self._process.children()):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
        return used

    @property
    def p95(self) -> float | None:
        """The 95th percentile (nearest rank) of the samples, None without one."""
        ordered = sorted(self._shares)
        return round(nearest_rank(ordered, 95), 3) if ordered else None
