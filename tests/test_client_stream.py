"""Answers that grow, against fake servers: what breaks in the middle, and what happens when the loop is left."""

import asyncio
import contextlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from client_kinds import CLIENTS, DELTAS, FAKES, GRACE_S, HELLO
from fake_kserve import Dropped, Fault, fake_grpc, fake_http, raw_socket, said

from tritonyard import (
    AsyncClient,
    Client,
    ClientClosed,
    DeadlineExceeded,
    ServerFailed,
    ServerOverloaded,
    ServerUnavailable,
)


def endless(inputs):
    for count in range(1, 1000):
        yield said("x", count=count)
        time.sleep(0.01)


def silent(inputs):
    """Answer nothing that is shown, so that the loop waits."""
    for _ in range(1000):
        yield said("", count=0)
        time.sleep(0.01)


# --- what goes wrong


def broken_off(ending):
    """Write two deltas and then what `ending` does."""

    def write(inputs):
        yield from HELLO[:2]
        yield from ending()

    return write


def raising(error):
    def ending():
        raise error
        yield

    return ending


@pytest.mark.parametrize(
    ("ending", "error", "words"),
    [
        (raising(Fault("INTERNAL", 500, "boom")), ServerFailed, "boom"),
        (raising(Fault("UNKNOWN", 500, "no status, boom")), ServerFailed, "no status, boom"),
        (raising(Fault("UNKNOWN", 503, "Exceeds maximum queue size")), ServerOverloaded, "Exceeds maximum"),
        (lambda: [], ServerFailed, "ended without a finish_reason"),
        (lambda: [said("", "error", 7)], ServerFailed, "the model broke off after 7 tokens"),
        (lambda: [{"text_output": "a"}], ServerFailed, "has no 'finish_reason', it has text_output"),
        (lambda: [{**said("a"), "num_output_tokens": "7"}], ServerFailed, "not a generation's"),
    ],
)
def test_an_error_in_the_middle(client, fake, ending, error, words):
    fake.write = broken_off(ending)
    seen = []
    with pytest.raises(error, match=words):
        seen.extend(client.generate("hi", stream=True))
    # What an async loop yielded is lost with the error: the helper gathers it.
    assert seen[:1] == ([DELTAS[0]] if isinstance(client, Client) else [])


def test_a_connection_that_drops_in_the_middle(client, fake):
    fake.write = broken_off(raising(Dropped()))
    with pytest.raises(ServerUnavailable):
        list(client.generate("hi", stream=True))


def test_an_http_error_without_a_body():
    def behave(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    for kind in CLIENTS.values():
        with (
            raw_socket(behave) as address,
            kind(f"http://{address}", model="m") as client,
            pytest.raises(ServerUnavailable, match="the server answered 503"),
        ):
            list(client.generate("hi", stream=True))


def test_nobody_there():
    for scheme in FAKES:
        for kind in CLIENTS.values():
            with (
                kind(f"{scheme}://127.0.0.1:1", model="m") as client,
                pytest.raises(ServerUnavailable, match=r"(?i)refused"),
            ):
                client.generate("hi")


@pytest.mark.parametrize("write", [endless, silent])
@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_in_the_middle_cancels(client, fake, write, stream):
    fake.write = write
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"no complete answer within 0\.3 s"):
        list(client.generate("hi", stream=stream, timeout=0.3))
    assert 0.25 < time.monotonic() - begun < 0.3 + GRACE_S
    if stream or fake.url.startswith("grpc"):
        assert fake.cancelled.wait(2)


# --- leaving the loop


def leave_by_break(stream):
    for _ in stream:
        break


def leave_by_return(stream):
    for _ in stream:
        return


def leave_by_an_error(stream):
    with contextlib.suppress(ZeroDivisionError):
        for _ in stream:
            raise ZeroDivisionError


def leave_by_closing(stream):
    with stream:
        next(iter(stream))


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_return, leave_by_an_error, leave_by_closing])
def test_leaving_the_loop_cancels_though_the_stream_is_held(fake, leave):
    fake.write = endless
    with Client(fake.url, model="minilm") as client:
        stream = client.generate("hi", stream=True)
        leave(stream)
        assert fake.cancelled.wait(2)
        assert list(stream) == []


@pytest.mark.parametrize("write", [endless, silent])
def test_closing_from_another_thread_ends_the_loop(fake, write):
    fake.write = write
    with Client(fake.url, model="minilm") as client, ThreadPoolExecutor(1) as pool:
        stream = client.generate("hi", stream=True)
        reading = pool.submit(list, stream)
        time.sleep(0.2)
        stream.close()
        assert all(delta.text == "x" for delta in reading.result(2))
        assert fake.cancelled.wait(2)


def test_a_stream_that_nobody_reads_sends_nothing(fake):
    with Client(fake.url, model="minilm") as client:
        stream = client.generate("hi", stream=True)
        stream.close()
        assert list(stream) == []
    assert fake.generations == []


def test_an_async_loop_that_is_left_cancels(fake):
    fake.write = endless

    async def main():
        async with AsyncClient(fake.url, model="minilm") as client:
            stream = client.generate("hi", stream=True)
            async for _ in stream:
                break
            assert await asyncio.to_thread(fake.cancelled.wait, 2)
            assert [delta async for delta in stream] == []

    asyncio.run(main())


@pytest.mark.parametrize("write", [endless, silent])
def test_a_cancelled_task_cancels_its_request(fake, write):
    fake.write = write

    async def main():
        async with AsyncClient(fake.url, model="minilm") as client:

            async def read():
                async with client.generate("hi", stream=True) as stream:
                    async for _ in stream:
                        pass

            task = asyncio.ensure_future(read())
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(fake.cancelled.wait, 2)

    asyncio.run(main())


def test_a_closed_client_says_so(fake):
    with Client(fake.url, model="minilm") as client:
        stream = client.generate("hi", stream=True)
    with pytest.raises(ClientClosed):
        client.generate("hi")
    if fake.url.startswith("grpc"):
        with pytest.raises(ClientClosed):
            list(stream)


# --- many at once


def test_many_threads_stream_at_once(fake):
    fake.write = lambda inputs: (
        said(letter, "" if letter != "." else "stop", index) for index, letter in enumerate(inputs["text_input"][0])
    )
    with Client(fake.url, model="minilm") as client, ThreadPoolExecutor(24) as pool:
        prompts = [f"{number} is my own number." for number in range(24)]
        answers = list(pool.map(lambda prompt: list(client.generate(prompt, stream=True)), prompts))
    assert ["".join(delta.text for delta in answer) for answer in answers] == prompts


GEVENT = """
import gevent.monkey; gevent.monkey.patch_all()
import grpc.experimental.gevent; grpc.experimental.gevent.init_gevent()
import sys, time, gevent
from tritonyard import Client
for url in sys.argv[1:]:
    with Client(url, model="minilm") as client:
        arrived = []
        def read():
            for delta in client.generate("hi", stream=True):
                arrived.append(time.monotonic())
        begun = time.monotonic()
        gevent.joinall([gevent.spawn(read) for _ in range(10)], raise_error=True)
        took = time.monotonic() - begun
        print(url, len(arrived), round(took, 2))
        assert len(arrived) == 50
        assert took < 2, "streams waited for each other"
        assert arrived[25] - begun < 0.8 * took, "the deltas came together at the end"
        for delta in client.generate("hi", stream=True):
            break
"""


def test_greenlets_stream_side_by_side():
    def write(inputs):
        for count in range(5):
            time.sleep(0.1)
            yield said("x", "stop" if count == 4 else "", count)

    with fake_grpc() as one, fake_http() as other:
        one.write = other.write = write
        run = subprocess.run(
            [sys.executable, "-c", GEVENT, one.url, other.url], capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert one.cancelled.wait(2)
        assert other.cancelled.wait(2)
