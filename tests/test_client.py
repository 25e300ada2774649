"""The clients over real sockets against fake servers: what a real server cannot be made to show."""

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_kserve import MAX_BATCH, WIDTH, Fault, embedding_of, fake_grpc, fake_http, raw_socket

from tritonyard import (
    AccessDenied,
    AsyncClient,
    Client,
    ClientClosed,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerFailed,
    ServerOverloaded,
    ServerUnavailable,
    TritonyardError,
)

FAKES = {"grpc": fake_grpc, "http": fake_http}
GRACE_S = 0.25


class Blocking:
    """An AsyncClient with the methods of a Client, so that one test speaks for both."""

    def __init__(self, *args, **kwargs):
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*args, **kwargs)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._loop.run_until_complete(method(*args, **kwargs))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


CLIENTS = {"sync": Client, "async": Blocking}


@pytest.fixture(params=sorted(FAKES))
def fake(request):
    with FAKES[request.param]() as fake:
        yield fake


@pytest.fixture(params=sorted(CLIENTS))
def kind(request):
    return CLIENTS[request.param]


@pytest.fixture
def client(fake, kind):
    with kind(fake.url, model="minilm", timeout=10) as client:
        yield client


def mixed_texts(count):
    dice = random.Random(0)
    return [chr(97 + index % 26) * dice.randint(1, 9) + " word" * dice.randint(0, 150) for index in range(count)]


def expected(texts):
    return np.array([embedding_of(text.encode()) for text in texts], np.float32)


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
        ("https://h:1", "scheme 'https'"),
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


# --- what goes wrong at the server


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("UNAVAILABLE", 503, "Exceeds maximum queue size"), ServerOverloaded),
        (Fault("UNAVAILABLE", 503, "Server is stopping"), ServerUnavailable),
        (Fault("UNAVAILABLE", 403, "This protocol is restricted, expecting header 'k'"), AccessDenied),
        (Fault("INTERNAL", 500, "boom"), ServerFailed),
        (Fault("INVALID_ARGUMENT", 400, "no such thing"), InvalidRequest),
    ],
)
@pytest.mark.parametrize("count", [1, 100])
def test_the_servers_errors_are_typed(client, fake, fault, error, count):
    def answer(texts, parameters):
        raise fault

    fake.answer = answer
    with pytest.raises(error, match=fault.words) as raised:
        client.embed(["a"] * count)
    assert raised.value.model == "minilm"
    assert raised.value.url == fake.url
    assert raised.value.words == fault.words
    assert raised.value.status in (fault.status, fault.code)
    assert raised.value.__cause__ is None
    fake.answer = lambda texts, parameters: None
    assert client.embed(["a"] * count).shape == (count, WIDTH)


def test_the_servers_text_number_becomes_the_callers(client, fake):
    def answer(texts, parameters):
        for index, text in enumerate(texts):
            if text.startswith(b"bad"):
                raise Fault("INVALID_ARGUMENT", 400, f"minilm_tokenizer: text {index} has 900 tokens")

    fake.answer = answer
    texts = mixed_texts(300)
    texts[217] = "bad one"
    with pytest.raises(InvalidRequest, match="text 217 has 900 tokens"):
        client.embed(texts)


def test_the_first_error_stops_the_rest(client, fake):
    def answer(texts, parameters):
        raise Fault("INTERNAL", 500, "boom")

    fake.answer = answer
    with pytest.raises(ServerFailed):
        client.embed(["word " * 150] * 200)
    assert len(fake.requests) <= 16


def test_an_unknown_model(fake, kind):
    with kind(fake.url, model="minlm") as client, pytest.raises(ModelNotFound, match="minlm"):
        client.embed("a")


def test_probes(client, fake):
    assert client.ready() is True
    assert client.model_ready() is True
    assert client.model_ready("other") is False


def test_nobody_there(kind):
    for scheme in FAKES:
        with kind(f"{scheme}://127.0.0.1:1", model="m", timeout=5) as client:
            begun = time.monotonic()
            with pytest.raises(ServerUnavailable, match=r"(?i)refused"):
                client.embed("a")
            assert client.ready() is False
            assert client.model_ready("m") is False
            assert time.monotonic() - begun < 1


@pytest.mark.parametrize("scheme", sorted(FAKES))
def test_a_server_that_is_started_late_is_found_soon(scheme, kind):
    with FAKES[scheme]() as fake:
        url, port = fake.url, int(fake.url.rsplit(":", 1)[1])
    with kind(url, model="minilm", timeout=1) as client:
        for _ in range(10):
            assert client.ready() is False
            time.sleep(0.05)
        with FAKES[scheme](f"127.0.0.1:{port}" if scheme == "grpc" else port):
            begun = time.monotonic()
            while not client.ready():
                time.sleep(0.02)
            assert time.monotonic() - begun < 2
            assert client.embed("a").shape == (1, WIDTH)


def test_a_restarted_server_is_met_on_a_new_connection(kind):
    with fake_http() as fake, kind(fake.url, model="minilm") as client:
        client.embed("a")
        port = int(fake.url.rsplit(":", 1)[1])
        fake.answer = lambda texts, parameters: (_ for _ in ()).throw(ConnectionError)  # drops the connection
        with pytest.raises(ServerUnavailable):
            client.embed("a")
        fake.answer = lambda texts, parameters: None
        assert client.embed("a").shape == (1, WIDTH)
        assert client.url.endswith(str(port)) if isinstance(client, Client) else True


# --- deadlines


@pytest.mark.parametrize("count", [1, 200])
def test_a_slow_server_meets_the_deadline(client, fake, count):
    client.embed("a")
    release = threading.Event()
    fake.answer = lambda texts, parameters: release.wait(5) and None
    begun = time.monotonic()
    try:
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s"):
            client.embed(["word " * 100] * count, timeout=0.3)
        assert 0.25 < time.monotonic() - begun < 0.3 + GRACE_S
    finally:
        release.set()


def test_the_budget_is_for_all_requests_together(client, fake):
    fake.answer = lambda texts, parameters: time.sleep(0.2)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.embed(["word " * 150] * 200, timeout=0.5)
    assert time.monotonic() - begun < 0.5 + GRACE_S


def black_hole(connection):
    while connection.recv(65536):
        pass


def drip(connection):
    connection.recv(65536)
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000:
        connection.sendall(bytes([byte]))
        time.sleep(0.01)


def drip_a_header(connection):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.01)


def hang_up(connection):
    connection.recv(65536)


def half_an_answer(connection):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


def nonsense(connection):
    connection.recv(65536)
    connection.sendall(b"\xff\xfe nonsense\r\n\r\n" * 3)


@pytest.mark.parametrize("scheme", sorted(FAKES))
@pytest.mark.parametrize("behave", [black_hole, drip, drip_a_header])
def test_a_mute_or_dripping_server_meets_the_deadline(kind, scheme, behave):
    if scheme == "grpc" and behave is not black_hole:
        pytest.skip("a drip of HTTP/1.1 is not gRPC")
    with raw_socket(behave) as address, kind(f"{scheme}://{address}", model="m") as client:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.embed("a", timeout=0.4)
        assert time.monotonic() - begun < 0.4 + GRACE_S


@pytest.mark.parametrize("scheme", sorted(FAKES))
@pytest.mark.parametrize("behave", [hang_up, half_an_answer, nonsense])
def test_a_broken_connection_is_an_unavailable_server(kind, scheme, behave):
    with raw_socket(behave) as address, kind(f"{scheme}://{address}", model="m") as client:
        begun = time.monotonic()
        with pytest.raises((ServerUnavailable, DeadlineExceeded) if scheme == "grpc" else ServerUnavailable):
            client.embed("a", timeout=1)
        assert client.ready(timeout=1) is False
        assert time.monotonic() - begun < 2 + 2 * GRACE_S


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b"{}",
        b'{"max_batch_size": "x"}',
        b'{"max_batch_size": 1, "input": [{"name": "text", "dims": null}], "output": []}',
    ],
)
def test_an_answer_that_makes_no_sense(kind, body):
    def behave(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with (
        raw_socket(behave) as address,
        kind(f"http://{address}", model="m") as client,
        pytest.raises(ServerFailed, match="not KServe's"),
    ):
        client.embed("a")


def test_a_model_that_does_not_embed_is_named(kind):
    config = {
        "max_batch_size": 8,
        "input": [{"name": "input_ids", "dims": [-1]}],
        "output": [{"name": "x", "dims": [-1]}],
    }

    def behave(connection):
        connection.recv(65536)
        # HTTP/1.0: the answer ends where the connection ends.
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(config).encode())

    with (
        raw_socket(behave) as address,
        kind(f"http://{address}", model="m") as client,
        pytest.raises(InvalidRequest, match="it turns input_ids into x"),
    ):
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
        assert len(client._transport._idle) == 1
        client.embed(["word " * 150] * 60)
        assert len(client._transport._idle) == client.concurrency
        client.close()
        assert not client._transport._idle


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
