"""Requests that are given up at random moments, at a real tritonserver: nothing is left, and it goes on as before."""

import asyncio
import contextlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_callers import CALLERS, WRITER, caller, kept, nothing_left

from tritonyard import AsyncClient, Client, DeadlineExceeded

pytestmark = [pytest.mark.server, pytest.mark.alone]

CANCELS, AT_ONCE = 500, 16
PROMPT = {"model": WRITER, "max_tokens": 300, "min_tokens": 300}


@pytest.fixture(scope="module", autouse=True)
def _kept(server):
    with kept(server):
        yield


class Left(Exception):
    """What breaks a caller's loop."""


def leave_after(draw, ways):
    """Draw a way to leave, a prompt of up to a few hundred tokens, and when: after so many deltas, or seconds."""
    return draw.choice(ways), "one two three " * draw.randint(1, 20), draw.randint(1, 3), draw.random() * 0.2 + 0.001


# --- threads: each of these reads one stream and leaves it


def by_break(client, prompt, deltas, seconds):
    for count, _ in enumerate(client.generate(prompt, stream=True, **PROMPT), 1):
        if count == deltas:
            break


def by_an_exception(client, prompt, deltas, seconds):
    with contextlib.suppress(Left):
        for count, _ in enumerate(client.generate(prompt, stream=True, **PROMPT), 1):
            if count == deltas:
                raise Left


def by_closing(client, prompt, deltas, seconds):
    """Close it from another thread."""
    stream = client.generate(prompt, stream=True, **PROMPT)
    timer = threading.Timer(seconds, stream.close)
    timer.start()
    assert all(delta.finish_reason is None for delta in stream)
    timer.join()


def by_timeout(client, prompt, deltas, seconds):
    with pytest.raises(DeadlineExceeded):
        list(client.generate(prompt, stream=True, timeout=seconds, **PROMPT))


WAYS = [by_break, by_an_exception, by_closing, by_timeout]


def thread_leaves(client, seed, count):
    draw = random.Random(seed)
    for _ in range(count):
        way, *when = leave_after(draw, WAYS)
        way(client, *when)


# --- tasks


async def read(client, prompt, deltas=None, timeout=None):
    count = 0
    async for _ in client.generate(prompt, stream=True, timeout=timeout, **PROMPT):
        count += 1
        if count == deltas:
            break


async def task_breaks(client, prompt, deltas, seconds):
    await read(client, prompt, deltas)


async def task_is_cancelled(client, prompt, deltas, seconds):
    task = asyncio.ensure_future(read(client, prompt))
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def task_raises(client, prompt, deltas, seconds):
    count = 0
    with contextlib.suppress(Left):
        async for _ in client.generate(prompt, stream=True, **PROMPT):
            count += 1
            if count == deltas:
                raise Left


async def task_closes(client, prompt, deltas, seconds):
    async with client.generate(prompt, stream=True, **PROMPT) as stream:
        await anext(aiter(stream))


async def task_times_out(client, prompt, deltas, seconds):
    with pytest.raises(DeadlineExceeded):
        await read(client, prompt, timeout=seconds)


async def task_is_timed_out(client, prompt, deltas, seconds):
    """By asyncio's own timeout."""
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(read(client, prompt), seconds)


ASYNC_WAYS = [task_breaks, task_is_cancelled, task_raises, task_closes, task_times_out, task_is_timed_out]


async def task_leaves(client, seed, count):
    draw = random.Random(seed)
    for _ in range(count):
        way, *when = leave_after(draw, ASYNC_WAYS)
        await way(client, *when)


async def tasks_leave(urls, workers, count):
    clients = [AsyncClient(url, timeout=30) for url in urls]
    async with contextlib.AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client)
        await asyncio.gather(*(task_leaves(client, seed, count) for seed in range(workers) for client in clients))
        # What a loop that was left still does is done in the event loop's next turns.
        await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_500_cancels_at_random_moments(server):
    urls = (server.grpc_url, server.http_url)
    workers = AT_ONCE // 4
    count = CANCELS // AT_ONCE + 1
    before = answers(server)
    with nothing_left(server), ThreadPoolExecutor(AT_ONCE) as pool, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(url, timeout=30)) for url in urls]
        leaving = [pool.submit(thread_leaves, client, seed, count) for seed in range(workers) for client in clients]
        leaving.append(pool.submit(asyncio.run, tasks_leave(urls, workers, count)))
        for each in leaving:
            each.result()
    assert answers(server) == before


def answers(server):
    """What each transport says to one prompt."""
    found = []
    for url in (server.grpc_url, server.http_url):
        for kind in CALLERS:
            with caller(kind, url, timeout=10) as calling:
                found.append("".join(delta.text for delta in calling.read("The sea", max_tokens=12)))
    assert len(set(found)) == 1
    return found
