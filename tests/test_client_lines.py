"""Many streams at once over few connections, and answers that nobody reads."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest
from fake_kserve import Fault, fake_grpc, said

from tritonyard import AsyncClient, Client, ServerFailed, _grpc_lines
from tritonyard._connection import Address, Connection
from tritonyard._grpc_lines import Lines
from tritonyard._transport import Refused

# A server's limit of streams a connection, and how many there are at once.
LIMIT, COUNT = 8, 32
DELTA, DELTAS = "x" * 100_000, 1000
# What sockets and windows hold between two who do not read, of the 100 MB.
HELD_MB = 25


# --- which line a stream goes by


@pytest.fixture
def lines(monkeypatch):
    monkeypatch.setattr(_grpc_lines, "STREAMS", 2)
    found = Lines(grpc, Connection(Address("grpc://127.0.0.1:1")))
    yield found
    for channel in found.close():
        channel.close()


def test_a_line_is_opened_when_the_others_are_full(lines):
    taken = [lines.take() for _ in range(5)]
    assert [taken.index(each) for each in taken] == [0, 0, 2, 2, 4]


def test_the_first_line_with_room_is_taken_again(lines):
    taken = [lines.take() for _ in range(5)]
    lines.give_back(taken[3])
    lines.give_back(taken[1])
    assert [lines.take() for _ in range(3)] == [taken[0], taken[2], taken[4]]


def test_calls_go_by_the_first_line_however_full_it_is(lines):
    first = lines.first()
    taken = [lines.take() for _ in range(3)]
    assert taken[0] is first is lines.first()


def test_no_line_is_opened_after_the_end(lines):
    for _ in range(2):
        lines.take()
    for channel in lines.close():
        channel.close()
    with pytest.raises(Refused, match="closed"):
        lines.take()


def in_turn(url):
    with Client(url, model="minilm") as client:
        for _ in range(3):
            assert len(list(client.generate("hi", stream=True))) == 1
            with pytest.raises(ServerFailed):
                list(client.generate("broken", stream=True))
            for _ in client.generate("endless", stream=True):
                break


def async_in_turn(url):
    async def run():
        async with AsyncClient(url, model="minilm") as client:
            for _ in range(3):
                assert len([delta async for delta in client.generate("hi", stream=True)]) == 1
                with pytest.raises(ServerFailed):
                    [delta async for delta in client.generate("broken", stream=True)]
                async with client.generate("endless", stream=True) as stream:
                    async for _ in stream:
                        break

    asyncio.run(run())


@pytest.mark.wire
@pytest.mark.parametrize("run", [in_turn, async_in_turn])
def test_a_stream_that_is_over_makes_room(monkeypatch, run):
    opened = []

    class Counted(_grpc_lines.Line):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            opened.append(self)

    def write(inputs):
        (prompt,) = inputs["text_input"]
        if prompt == "broken":
            yield said("a")
            raise Fault("INTERNAL", 500, "boom")
        while prompt == "endless":
            yield said("a")
            time.sleep(0.01)
        yield said("a", "stop")

    monkeypatch.setattr(_grpc_lines, "STREAMS", 1)
    monkeypatch.setattr(_grpc_lines, "Line", Counted)
    with fake_grpc() as fake:
        fake.write = write
        run(fake.url)
    assert len(opened) == 1
    assert opened[0].streams == 0


@pytest.mark.wire
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_more_streams_run_at_once_than_a_connection_may_carry(monkeypatch, kind):
    monkeypatch.setattr(_grpc_lines, "STREAMS", LIMIT)
    everyone = threading.Barrier(COUNT)

    def write(inputs):
        yield said("a")
        everyone.wait(10)
        yield said("b", "stop")

    async def gathered(url):
        async with AsyncClient(url, model="minilm") as client:

            async def read():
                return [delta.text async for delta in client.generate("hi", stream=True)]

            return await asyncio.gather(*(read() for _ in range(COUNT)))

    with fake_grpc(options=[("grpc.max_concurrent_streams", LIMIT)]) as fake:
        fake.write = write
        if kind == "async":
            answers = asyncio.run(gathered(fake.url))
        else:
            with Client(fake.url, model="minilm") as client, ThreadPoolExecutor(COUNT) as pool:

                def read(_):
                    return [delta.text for delta in client.generate("hi", stream=True)]

                answers = list(pool.map(read, range(COUNT)))
    assert answers == [["a", "b"]] * COUNT


# --- who does not read is not written to


def slow_reader(url, wait):
    with Client(url, model="minilm") as client:
        for _ in client.generate("hi", stream=True):
            wait()
            break


def slow_async_reader(url, wait):
    async def read():
        async with AsyncClient(url, model="minilm") as client:
            stream = client.generate("hi", stream=True)
            async for _ in stream:
                # The event loop goes on, and must not read either.
                await asyncio.to_thread(wait)
                break
            await stream.close()

    asyncio.run(read())


@pytest.mark.parametrize("read", [slow_reader, slow_async_reader])
def test_a_reader_that_waits_holds_the_server_back(fake, read):
    written = []

    def write(inputs):
        for count in range(DELTAS):
            written.append(count)
            yield said(DELTA, "stop" if count == DELTAS - 1 else "", count)

    def until_it_stands():
        seen = -1
        while seen != len(written):
            seen = len(written)
            time.sleep(0.3)
        grown.append(psutil.Process().memory_info().rss - before)

    fake.write, grown, before = write, [], psutil.Process().memory_info().rss
    read(fake.url, until_it_stands)
    assert len(written) * len(DELTA) < 1e6 * HELD_MB
    # The fake server is in this process too.
    assert grown[0] < 2e6 * HELD_MB
    assert fake.cancelled.wait(5)


# --- greenlets


GEVENT = """
import gevent.monkey; gevent.monkey.patch_all()
import grpc.experimental.gevent; grpc.experimental.gevent.init_gevent()
import sys, gevent
from tritonyard import Client

with Client(sys.argv[1], model="minilm") as client:
    silent = [gevent.spawn(list, client.generate("silent", stream=True)) for _ in range(12)]
    gevent.sleep(0.2)
    assert len(list(client.generate("hi", stream=True))) == 1
    assert not any(each.ready() for each in silent), "it waited for the others"
    gevent.joinall(silent, raise_error=True)
"""


@pytest.mark.wire
def test_greenlets_that_wait_for_streams_hold_no_threads():
    def write(inputs):
        if inputs["text_input"] == ["silent"]:
            time.sleep(2)
        yield said("a", "stop")

    with fake_grpc() as fake:
        fake.write = write
        run = subprocess.run(
            [sys.executable, "-c", GEVENT, fake.url], capture_output=True, text=True, timeout=60, check=False
        )
    assert run.returncode == 0, run.stderr
