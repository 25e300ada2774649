"""The clients over real sockets, against fake servers: what they return, refuse, and share among threads."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from client_kinds import expected, mixed_texts
from fake_kserve import MAX_BATCH, WIDTH, fake_grpc, fake_http

from tritonyard import (
    AsyncClient,
    Client,
    ClientClosed,
    InvalidRequest,
    TritonyardError,
)

# --- what embed returns


def test_order_is_restored(client, fake):
    texts = mixed_texts(300)
    embeddings = client.embed(texts)
    assert embeddings.dtype == np.float32
    assert embeddings.flags.writeable
    np.testing.assert_array_equal(embeddings, expected(texts))
    assert len(fake.requests) > 10
    assert max(map(len, fake.requests)) <= MAX_BATCH


def test_one_str_is_one_text(client):
    np.testing.assert_array_equal(client.embed("hello"), expected(["hello"]))


def test_no_texts_have_the_models_width(client, fake):
    assert client.embed([]).shape == (0, WIDTH)
    assert fake.requests == []


@pytest.mark.parametrize("texts", [("a", "b"), np.array(["a", "b"]), ["", "é\0字🙂"]])
def test_any_sequence_of_str(client, texts):
    np.testing.assert_array_equal(client.embed(texts), expected(list(texts)))


def test_truncate_is_a_request_parameter(client, fake):
    seen = []
    fake.answer = lambda texts, parameters: seen.append(parameters.get("truncate", False))
    client.embed("a")
    client.embed("a", truncate=True)
    assert seen == [False, True]


def test_the_config_is_fetched_once(client, fake):
    for _ in range(3):
        client.embed("a")
    assert fake.configs == 1


def test_the_model_of_the_call_wins(fake, kind):
    with kind(fake.url, model="other") as client:
        assert client.embed("a", model="minilm").shape == (1, WIDTH)


# --- what is refused before it is sent


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a", 7], "text 1 is int, not str"),
        (["a", None], "text 1 is NoneType, not str"),
        (["a", b"b"], "text 1 is bytes, not str"),
        (["a", "b", "x\ud800"], "text 2 cannot be sent as UTF-8: it holds a lone surrogate U\\+D800 at position 1"),
        (b"a", "texts is bytes"),
        (None, "texts is NoneType"),
        (7, "texts is int"),
    ],
)
def test_bad_texts_are_named(client, fake, texts, words):
    with pytest.raises(InvalidRequest, match=words) as raised:
        client.embed(texts)
    assert raised.value.model == "minilm"
    assert fake.requests == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://h:1", "scheme 'ftp'"),
        ("grpc://h:x", "cannot be read"),
        ("grpc://", "not of the form"),
        ("http://h/v2", "not of the form"),
        (7, "url is int"),
    ],
)
def test_bad_urls(kind, url, words):
    with pytest.raises(InvalidRequest, match=words):
        kind(url)


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("h", "grpc://h:8001"),
        ("h:7", "grpc://h:7"),
        ("http://h", "http://h:8000"),
        ("http://[::1]:7/", "http://[::1]:7"),
    ],
)
def test_urls_have_defaults(url, known):
    with Client(url) as client:
        assert client.url == known


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("nan")}, {"timeout": "3"}, {"concurrency": 0}])
def test_bad_options(options):
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        Client(**options)


def test_a_model_must_be_named(fake, kind):
    with kind(fake.url) as client, pytest.raises(InvalidRequest, match="no model is named"):
        client.embed("a")


# --- threads, tasks, closing


def test_many_threads_on_one_client(fake):
    texts = mixed_texts(40)
    with Client(fake.url, model="minilm") as client, ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda shift: client.embed(texts[shift:]), range(32)))
    for shift, result in enumerate(results):
        np.testing.assert_array_equal(result, expected(texts[shift:]))


def test_many_tasks_on_one_client(fake):
    texts = mixed_texts(40)

    async def main():
        async with AsyncClient(fake.url, model="minilm") as client:
            return await asyncio.gather(*(client.embed(texts[shift:]) for shift in range(32)))

    for shift, result in enumerate(asyncio.run(main())):
        np.testing.assert_array_equal(result, expected(texts[shift:]))


def test_concurrency_is_kept(fake, kind):
    lock, now, most = threading.Lock(), 0, 0

    def answer(texts, parameters):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    fake.answer = answer
    with kind(fake.url, model="minilm", concurrency=3) as client:
        client.embed(["word " * 150] * 60)
    assert most == 3


def test_a_cancelled_task_gives_its_requests_up(fake):
    release = threading.Event()
    fake.answer = lambda texts, parameters: release.wait(5) and None

    async def main():
        async with AsyncClient(fake.url, model="minilm") as client:
            before = asyncio.all_tasks()
            task = asyncio.ensure_future(client.embed(["word " * 150] * 60))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == before

    try:
        asyncio.run(asyncio.wait_for(main(), 3))
    finally:
        release.set()


def test_a_closed_client_says_so(fake, kind):
    with kind(fake.url, model="minilm") as client:
        client.embed("a")
        client.close()
        client.close()
        with pytest.raises(ClientClosed, match="the client is closed"):
            client.embed("a")
        with pytest.raises(ClientClosed):
            client.ready()


def test_closing_in_the_middle(fake):
    release = threading.Event()
    fake.answer = lambda texts, parameters: release.wait(5) and None
    client = Client(fake.url, model="minilm", timeout=3)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(client.embed, texts) for texts in ("a", ["word " * 150] * 60)]
        time.sleep(0.3)
        client.close()
        release.set()
        for call in calls:
            error = call.exception()
            assert error is None or isinstance(error, TritonyardError), error


def test_idle_connections_are_used_again_and_closed():
    with fake_http() as fake, Client(fake.url, model="minilm") as client:
        for _ in range(5):
            client.embed("a")
        assert len(client._endpoints.all[0].transport._idle) == 1
        client.embed(["word " * 150] * 60)
        assert len(client._endpoints.all[0].transport._idle) == client.concurrency
        client.close()
        assert not client._endpoints.all[0].transport._idle


def test_no_heavy_or_foreign_imports():
    code = "import sys, tritonyard; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    for name in ("torch", "transformers", "grpc", "aiohttp", "gevent", "tokenizers", "ensembles", "serving"):
        assert name not in loaded


GEVENT = """
import gevent.monkey; gevent.monkey.patch_all()
import grpc.experimental.gevent; grpc.experimental.gevent.init_gevent()
import sys, time, gevent
from tritonyard import Client
beats = 0
def heart():
    global beats
    while True:
        beats += 1
        gevent.sleep(0.01)
gevent.spawn(heart)
for url in sys.argv[1:]:
    beats = 0
    with Client(url, model="minilm") as client:
        begun = time.monotonic()
        jobs = [gevent.spawn(client.embed, ["word " * 150] * count) for count in [1] * 10 + [12] * 3]
        gevent.joinall(jobs, raise_error=True)
        took = time.monotonic() - begun
    print(url, round(took, 2), beats)
    assert took < 2, "calls waited for each other"
    assert beats > took * 30, "a call blocked the loop"
"""


def test_greenlets_do_not_block_each_other():
    with fake_grpc() as one, fake_http() as other:
        for fake in (one, other):
            fake.answer = lambda texts, parameters: time.sleep(0.2)
        run = subprocess.run(
            [sys.executable, "-c", GEVENT, one.url, other.url], capture_output=True, text=True, timeout=60
        )
    assert run.returncode == 0, run.stdout + run.stderr
