"""What goes wrong at a server, or on the way to it, against fake servers: typed errors, and deadlines that hold."""

import json
import threading
import time

import pytest
from client_kinds import FAKES, GRACE_S, mixed_texts
from fake_kserve import WIDTH, Fault, fake_http, raw_socket

from tritonyard import (
    AccessDenied,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerFailed,
    ServerOverloaded,
    ServerUnavailable,
)

pytestmark = pytest.mark.wire

# --- what the server answers


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


def test_a_dropped_connection_is_not_used_again(kind):
    def drop(texts, parameters):
        raise ConnectionError

    with fake_http() as fake, kind(fake.url, model="minilm") as client:
        client.embed("a")
        fake.answer = drop
        with pytest.raises(ServerUnavailable):
            client.embed("a")
        fake.answer = lambda texts, parameters: None
        assert client.embed("a").shape == (1, WIDTH)


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


@pytest.mark.parametrize("name", ["localhost", "nowhere.invalid"])
def test_a_name_server_that_says_nothing_meets_the_deadline(monkeypatch, name):
    over = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: over.wait(5) and [])
    with Client(f"http://{name}:1", model="m") as client:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.embed("a", timeout=0.3)
        assert time.monotonic() - begun < 0.3 + GRACE_S
    over.set()


def test_a_name_that_nobody_has(kind):
    for scheme in FAKES:
        with kind(f"{scheme}://nowhere.invalid:1", model="m", timeout=5) as client:
            with pytest.raises(ServerUnavailable) as raised:
                client.embed("a")
            assert raised.value.attempts == 3
