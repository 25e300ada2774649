"""The four transports behind one set of calls, and what they may not leave behind in this process and at the server."""

import asyncio
import contextlib
import json
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from served_metrics import value

from tritonyard import AsyncClient, Client, Delta, TritonyardError

STEP = "minilm_tokenizer"
WRITER = "smollm2"
DECODER = {"model": "smollm2_decoder"}
TEXT = ["a text"]

# Told all deltas so far, whenever there is one more.
OnDelta = Callable[[list[Delta]], object]


class Threads:
    """A Client; what is done at once is done by threads."""

    def __init__(self, url: str, **settings: Any):
        self.client = Client(url, **settings)

    def infer(self, **options: Any) -> Any:
        """Ask a step of one answer."""
        return self.client.infer(STEP, text=TEXT, **options)

    def read(self, prompt: str, on_delta: OnDelta = len, **options: Any) -> list[Delta]:
        """Read a stream to its end."""
        seen: list[Delta] = []
        for delta in self.client.generate(prompt, stream=True, model=WRITER, **options):
            seen.append(delta)
            on_delta(seen)
        return seen

    def read_at_once(self, count: int, on_delta: OnDelta, **options: Any) -> list[Any]:
        """Read streams side by side; an error stands where a stream ended with one."""

        def one(number: int) -> Any:
            try:
                return self.read(f"Number {number}:", on_delta, **options)
            except TritonyardError as error:
                return error

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))

    def close(self) -> None:
        self.client.close()


class Tasks:
    """An AsyncClient with a loop of its own; what is done at once is done by tasks."""

    def __init__(self, url: str, **settings: Any):
        self.loop = asyncio.new_event_loop()
        self.client = AsyncClient(url, **settings)

    def infer(self, **options: Any) -> Any:
        return self.loop.run_until_complete(self.client.infer(STEP, text=TEXT, **options))

    def read(self, prompt: str, on_delta: OnDelta = len, **options: Any) -> list[Delta]:
        return self.loop.run_until_complete(self._read(prompt, on_delta, options))

    def read_at_once(self, count: int, on_delta: OnDelta, **options: Any) -> list[Any]:
        async def one(number: int) -> Any:
            try:
                return await self._read(f"Number {number}:", on_delta, options)
            except TritonyardError as error:
                return error

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*map(one, range(count)))

        return self.loop.run_until_complete(all_of_them())

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        left = asyncio.all_tasks(self.loop)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        assert left == set()

    async def _read(self, prompt: str, on_delta: OnDelta, options: dict[str, Any]) -> list[Delta]:
        seen: list[Delta] = []
        async for delta in self.client.generate(prompt, stream=True, model=WRITER, **options):
            seen.append(delta)
            on_delta(seen)
        return seen


CALLERS = {"sync": Threads, "async": Tasks}


@contextlib.contextmanager
def caller(kind: str, url: str, **settings: Any) -> Iterator[Any]:
    """Give a caller of one of the four transports, and close it."""
    calling = CALLERS[kind](url, **settings)
    try:
        yield calling
    finally:
        calling.close()


@contextlib.contextmanager
def kept(server: Any) -> Iterator[None]:
    """Keep what the libraries need between calls (a thread that polls, sockets that wake it), lest it come and go."""
    with contextlib.ExitStack() as stack:
        for url in (server.grpc_url, server.http_url):
            for kind in CALLERS:
                stack.enter_context(caller(kind, url)).infer()
        yield


@contextlib.contextmanager
def nothing_left(server: Any) -> Iterator[None]:
    """See to it that what is done within leaves nothing in this process, and nothing at the server."""
    before = held()
    yield
    wait_until(lambda: not held() - before, says=lambda: held() - before)
    wait_until(lambda: not busy(server), 10, says=lambda: busy(server))


def wait_until(condition: Callable[[], object], timeout_s: float = 5.0, says: Callable[[], object] = str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"it never came: {says()}"
        time.sleep(0.02)


def executed(server: Any, model: str) -> int:
    """How many requests the server's own statistics count for `model`, the failed ones too."""
    with urllib.request.urlopen(f"{server.http_url}/v2/models/{model}/stats", timeout=5) as answer:
        (stats,) = json.load(answer)["model_stats"]
    return sum(stats["inference_stats"][end]["count"] for end in ("success", "fail"))


def busy(server: Any) -> dict[str, float]:
    """What the server has in hand: nothing, when it is idle."""
    found = {
        "slots_used": value(server.metrics_url, "slots_used", **DECODER),
        "requests_waiting": value(server.metrics_url, "requests_waiting", **DECODER),
        "detokenizer_streams": value(server.metrics_url, "detokenizer_streams"),
    }
    return {name: number for name, number in found.items() if number}


def held() -> Counter[str]:
    """Count what this process holds: threads by name, and sockets, less those by which event loops are woken."""
    found = Counter(re.sub(r"[\d-]+", "", thread.name) for thread in threading.enumerate())
    unix = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            socket = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
            found["socket"] += socket is not None and socket[1] not in unix
    return found
