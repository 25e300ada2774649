"""Retries, several addresses and the hook over the wire: the same decisions by all four transports."""

import contextlib
import socket
import threading
import time

import pytest
from client_kinds import FAKES, GRACE_S
from fake_kserve import WIDTH, Dropped, Fault, Model, raw_socket, said

from tritonyard import (
    AsyncClient,
    Client,
    ClientClosed,
    DeadlineExceeded,
    InvalidRequest,
    Retry,
    ServerFailed,
    ServerOverloaded,
    ServerUnavailable,
)

pytestmark = pytest.mark.wire

FULL = Fault("UNAVAILABLE", 503, "Exceeds maximum queue size")
QUICK = Retry(attempts=4, backoff=0.02)
ECHO = {"inputs": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}]}


def failing(times, fault=FULL):
    """An answer that fails so many times, and then does not."""
    left = iter([fault] * times)

    def answer(texts, parameters):
        if (found := next(left, None)) is not None:
            raise found

    return answer


def nobody(scheme):
    """The address of a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def events():
    return []


@pytest.fixture
def calling(fake, kind, events):
    with kind(fake.url, model="minilm", timeout=10, retry=QUICK, on_event=events.append) as client:
        yield client


@pytest.mark.parametrize("times", [0, 1, 3, 4, 9])
def test_nobody_need_hear_of_it(fake, kind, times):
    fake.answer = failing(times)
    with kind(fake.url, model="minilm", retry=QUICK) as client:
        if times < 4:
            assert client.embed("a").shape == (1, WIDTH)
        else:
            with pytest.raises(ServerOverloaded, match="Exceeds maximum queue size") as raised:
                client.embed("a")
            assert raised.value.attempts == 4
    assert len(fake.requests) == min(times + 1, 4)


def test_a_full_queue_is_tried_again(calling, fake, events):
    fake.answer = failing(2)
    assert calling.embed("a").shape == (1, WIDTH)
    told = [(each.kind, each.attempt) for each in events if each.call.id]
    assert told == [("sent", 1), ("retrying", 1), ("sent", 2), ("retrying", 2), ("sent", 3), ("answered", 3)]
    assert {each.url for each in events} == {fake.url}
    assert all(isinstance(each.error, ServerOverloaded) for each in events if each.kind == "retrying")


def test_one_request_of_many_is_tried_again(calling, fake):
    fake.answer = failing(3)
    assert calling.embed(["word " * 150] * 40).shape == (40, WIDTH)


def test_the_last_error_is_told_with_its_attempts(calling, fake):
    fake.answer = failing(99)
    with pytest.raises(ServerOverloaded, match="after 4 attempts") as raised:
        calling.embed("a")
    assert raised.value.attempts == 4
    assert len(raised.value.request_id) == 32
    assert len(fake.requests) == 4


def test_once_is_once(fake, kind):
    fake.answer = failing(1)
    with kind(fake.url, model="minilm", retry=Retry(attempts=1)) as client, pytest.raises(ServerOverloaded):
        client.embed("a")
    assert len(fake.requests) == 1


def test_what_the_server_answered_is_not_asked_again(calling, fake):
    fake.answer = failing(1, Fault("INTERNAL", 500, "boom"))
    with pytest.raises(ServerFailed):
        calling.embed("a")
    assert len(fake.requests) == 1


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_that_breaks_before_its_first_answer(calling, fake, idempotent, stream):
    begun = []

    def write(inputs):
        begun.append(inputs)
        if len(begun) == 1:
            raise Dropped
        yield said("hello", "stop")

    fake.write = write

    def answer():
        found = calling.generate("Hi", stream=stream, idempotent=idempotent)
        return list(found)[-1].text if stream else found.text

    if idempotent:
        assert answer() == "hello"
        assert len(set(fake.ids)) == 2
    else:
        with pytest.raises(ServerUnavailable):
            answer()
        assert len(begun) == 1


def test_a_stream_that_breaks_after_its_first_answer_is_not_begun_again(calling, fake, events):
    def write(inputs):
        yield said("hel")
        raise Dropped

    fake.write = write
    with pytest.raises((ServerUnavailable, ServerFailed)) as raised:
        list(calling.generate("Hi", stream=True, idempotent=True))
    assert len(fake.ids) == 1
    assert raised.value.attempts == 1
    assert raised.value.request_id == fake.ids[0]
    assert events[-1].reason == "the answer had begun"


def test_a_full_queue_is_tried_again_by_a_generation(calling, fake):
    left = iter([Fault("UNKNOWN", 400, "the queue is full")] * 2)

    def write(inputs):
        if (fault := next(left, None)) is not None:
            raise fault
        yield said("hello", "stop")

    fake.write = write
    assert calling.generate("Hi").text == "hello"
    left = iter([Fault("UNKNOWN", 400, "the queue is full")] * 2)
    assert list(calling.generate("Hi", stream=True))[-1].text == "hello"
    assert len(fake.generations) == 6


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("scheme", sorted(FAKES))
def test_a_connection_that_breaks_before_the_answer(scheme, kind, idempotent):
    tensors = [{"name": "x", "data_type": "TYPE_FP32", "dims": ["1"]}]
    with FAKES[scheme]() as fake:
        fake.models["echo"] = Model(tensors, tensors)
        with forwarding(fake) as (url, breaking), kind(url, retry=QUICK, timeout=5) as client:
            assert client.infer("echo", x=[1.0])["x"] == [1.0]
            before = len(fake.models["echo"].requests)
            breaking.set()
            if idempotent:
                assert client.infer("echo", x=[2.0], idempotent=True)["x"] == [2.0]
            else:
                with pytest.raises(ServerUnavailable):
                    client.infer("echo", x=[2.0])
                assert len(fake.models["echo"].requests) <= before + 1


@contextlib.contextmanager
def forwarding(fake):
    """A way to the fake, and what lets its next connection break after the request and before the answer."""
    breaking = threading.Event()
    scheme, address = fake.url.split("://")
    host, port = address.split(":")

    def answer(server, connection):
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_RDWR)

    def behave(connection):
        with socket.create_connection((host, int(port))) as server:
            threading.Thread(target=answer, args=(server, connection), daemon=True).start()
            while data := connection.recv(65536):
                if breaking.is_set():
                    breaking.clear()
                    return
                server.sendall(data)

    with raw_socket(behave) as through:
        yield f"{scheme}://{through}", breaking


def test_the_budget_is_for_all_attempts(fake, kind):
    fake.answer = failing(10**6)
    begun = time.monotonic()
    with (
        kind(fake.url, model="minilm", timeout=0.5, retry=Retry(attempts=10**6, backoff=0.05)) as client,
        pytest.raises((ServerOverloaded, DeadlineExceeded)) as raised,
    ):
        client.embed("a")
    assert time.monotonic() - begun < 0.5 + GRACE_S
    assert raised.value.attempts > 2


def test_retry_after_is_kept(kind):
    moments = []

    def behave(connection):
        connection.recv(65536)
        moments.append(time.monotonic())
        head, body = b"503 Busy\r\nretry-after: 1", b""
        if len(moments) > 1:
            head, body = b"200 OK", b'{"max_batch_size": 8, "input": [{"name": "x", "dims": [1]}], "output": []}'
        connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (head, len(body)) + body)

    with raw_socket(behave) as address, kind(f"http://{address}", model="m", retry=QUICK) as client:
        with pytest.raises(InvalidRequest, match="turns x into"):
            client.embed("a")
        assert moments[1] - moments[0] >= 1


def test_closing_ends_a_wait(fake):
    fake.answer = failing(10**6)
    client = Client(fake.url, model="minilm", retry=Retry(attempts=9, backoff=2.0))
    threading.Timer(0.3, client.close).start()
    begun = time.monotonic()
    with pytest.raises((ClientClosed, ServerOverloaded)):
        client.embed("a", timeout=20)
    assert time.monotonic() - begun < 10


# --- several addresses


@pytest.mark.parametrize("scheme", sorted(FAKES))
def test_two_servers_share_the_calls_and_one_that_ends_is_passed_over(scheme, kind):
    with (
        FAKES[scheme]() as one,
        contextlib.ExitStack() as stack,
        kind([one.url, fake_of(scheme, stack).url], model="minilm", timeout=5, retry=QUICK) as client,
    ):
        for _ in range(10):
            client.embed("a")
        assert len(one.requests) == 5
        stack.close()
        for _ in range(6):
            assert client.embed("a").shape == (1, WIDTH)
            assert list(client.generate("Hi", stream=True))[-1].text == "hello"
        assert client.ready() is True


def fake_of(scheme, stack):
    return stack.enter_context(FAKES[scheme]())


@pytest.mark.parametrize("scheme", sorted(FAKES))
def test_an_address_where_nobody_is_and_one_that_says_nothing(scheme, kind):
    def black_hole(connection):
        while connection.recv(65536):
            pass

    with FAKES[scheme]() as fake, raw_socket(black_hole) as hole:
        urls = [nobody(scheme), f"{scheme}://{hole}", fake.url]
        with kind(urls, model="minilm", timeout=3) as client:
            begun = time.monotonic()
            assert client.embed("a").shape == (1, WIDTH)
            assert time.monotonic() - begun < 3
            begun = time.monotonic()
            for _ in range(5):
                assert client.embed("a").shape == (1, WIDTH)
            assert time.monotonic() - begun < 1


def test_nobody_at_all(kind):
    for scheme in FAKES:
        with kind([nobody(scheme), nobody(scheme)], model="m", timeout=2, retry=QUICK) as client:
            begun = time.monotonic()
            with pytest.raises((ServerUnavailable, DeadlineExceeded)):
                client.embed("a")
            assert client.ready() is False
            assert time.monotonic() - begun < 4 + 2 * GRACE_S


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ([], "url is empty"),
        (["grpc://a", "a:8001"], "names 'grpc://a:8001' twice"),
        ([1], "url is int"),
        (7, "url is int"),
    ],
)
@pytest.mark.parametrize("kind_", [Client, AsyncClient])
def test_addresses_that_cannot_be(kind_, urls, words):
    with pytest.raises(InvalidRequest, match=words):
        kind_(urls)


def test_a_retry_that_is_none():
    with pytest.raises(InvalidRequest, match="retry is NoneType; pass Retry"):
        Client(retry=None)


def test_urls():
    with Client(["a", "http://b"]) as client:
        assert client.urls == ("grpc://a:8001", "http://b:8000")
        assert client.url == "grpc://a:8001"
    assert repr(client) == "Client('grpc://a:8001', 'http://b:8000', model=None, timeout=30)"
