"""Reads a server's metrics page while a load test runs, in a thread of yard's own process, not of the generator's.

It waits for the generator to say where the zero of its schedule lies on the machine's monotonic clock
(`loadtests.samples.read_zero`). It reads at the beginning of the judged window, every second or more, and at its end,
or when the generator has ended, if that is sooner. Readings are in time but for the waking of a thread; each is dated
to the middle of the request that it took, and the dates are kept. Where warmup_s is 0 the first one comes late by
POLL_S at most.

A page that does not answer is a fact of the run like any other: nothing is raised, and no verdict hangs on it.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from loadtests.samples import read_zero
from loadtests.server import metrics as server_metrics
from loadtests.server.metrics import Reading, ServerMetrics
from loadtests.server.snapshot import parse

EVERY_S = 1.0
# A long run is read as often as a plot can show.
MOST = 300
TIMEOUT_S = 1.0
POLL_S = 0.05
# The page is the server's own, and no proxy stands before it.
OPENER = build_opener(ProxyHandler({}))


@contextlib.contextmanager
def scraped(directory: Path, url: str | None, window: tuple[float, float]) -> Iterator[None]:
    """Read the page at `url` while the run in `directory` goes on; write its server.json when the block ends well.

    `window` is from warmup_s to duration_s. Without a `url` nothing is read and nothing written.
    """
    if url is None:
        yield
        return
    scraper = Scraper(directory, url, window)
    try:
        yield
    finally:
        scraper.stop()
    server_metrics.write_server(directory, scraper.metrics())


class Scraper:
    """One thread that reads one page in one window."""

    def __init__(self, directory: Path, url: str, window: tuple[float, float]):
        """Begin to wait for the run in `directory`."""
        self._directory, self._url, self._window = directory, url, window
        self._readings: list[Reading] = []
        self._failures: list[str] = []
        self._cpu_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take a last reading, if the window is not over, and end."""
        self._ended.set()
        self._thread.join()

    def metrics(self) -> ServerMetrics:
        """Return what was read; after `stop`."""
        return server_metrics.fold(self._url, self._readings, self._failures, self._cpu_s)

    def _run(self) -> None:
        zero = read_zero(self._directory)
        while zero is None:
            if self._ended.wait(POLL_S):
                return
            zero = read_zero(self._directory)
        self._read_on(zero)
        self._cpu_s = time.thread_time()

    def _read_on(self, zero: float) -> None:
        due_s, end_s = self._window
        every_s = max(EVERY_S, (end_s - due_s) / MOST)
        while True:
            ended = self._ended.wait(zero + due_s - time.perf_counter())
            self._read(zero)
            if ended or due_s >= end_s:
                return
            # Late ones are not made up for.
            due_s = min(max(due_s + every_s, time.perf_counter() - zero), end_s)

    def _read(self, zero: float) -> None:
        asked = time.perf_counter()
        try:
            with OPENER.open(self._url, timeout=TIMEOUT_S) as page:
                text = page.read().decode()
            answered = time.perf_counter()
            snapshot = parse(text)
        except (OSError, HTTPException, ValueError) as error:
            self._failures.append(_why(error))
            return
        self._readings.append(Reading((asked + answered) / 2 - zero, (answered - asked) * 1000, snapshot))


def _why(error: Exception) -> str:
    """The reason in the operating system's words, where it has any."""
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason)
