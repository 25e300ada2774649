"""What goes with every request: headers, tokens that are asked for, compression."""

import asyncio
import re
import time

import numpy as np
import pytest
from client_kinds import FAKES, GRACE_S, expected, mixed_texts
from fake_kserve import raw_socket
from hypothesis import given, settings
from hypothesis import strategies as st
from tls_front import make_certificates, tls_front, tls_of

from tritonyard import AsyncClient, Client, DeadlineExceeded, InvalidRequest, ServerFailed
from tritonyard._connection import OWN_HEADERS, Address, Connection

TEXTS = mixed_texts(60)
HELD_S = 0.15


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


# --- headers and tokens


def test_headers_go_with_every_call(client, fake, kind):
    with kind(fake.url, model="minilm", headers={"triton-admin-key": "s3cret", "X-Team": "a b"}) as calling:
        calling.ready()
        calling.embed(TEXTS)
        calling.generate("hi")
        list(calling.generate("hi", stream=True))
    assert len(fake.headers) > 5
    for headers in fake.headers:
        assert (headers["triton-admin-key"], headers["x-team"]) == ("s3cret", "a b")
        assert "authorization" not in headers


def test_a_fixed_token_is_a_bearer_token(fake, kind):
    with kind(fake.url, model="minilm", token="abc") as calling:
        calling.embed("a")
    assert {headers["authorization"] for headers in fake.headers} == {"Bearer abc"}


def test_a_callable_token_is_asked_before_each_request(fake, kind):
    given = iter(range(10))
    with kind(fake.url, model="minilm", token=lambda: f"t{next(given)}") as calling:
        calling.embed("a")
        calling.embed("b")
        list(calling.generate("hi", stream=True))
    assert [headers["authorization"] for headers in fake.headers] == [f"Bearer t{n}" for n in range(4)]


def test_a_token_may_be_awaited(fake):
    async def token():
        await asyncio.sleep(0)
        return "later"

    async def main():
        async with AsyncClient(fake.url, model="minilm", token=token) as client:
            await client.embed("a")
            return [delta async for delta in client.generate("hi", stream=True)]

    assert asyncio.run(main())
    assert {headers["authorization"] for headers in fake.headers} == {"Bearer later"}


def test_waiting_for_a_token_is_part_of_the_budget(fake):
    async def main():
        async with AsyncClient(fake.url, model="minilm", token=lambda: asyncio.sleep(9, "late")) as client:
            with pytest.raises(DeadlineExceeded):
                await client.embed("a", timeout=HELD_S)
            with pytest.raises(DeadlineExceeded):
                await client.generate("a", timeout=HELD_S)

    begun = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - begun < 2 * (HELD_S + GRACE_S)
    assert fake.headers == []


def test_a_clients_own_timeouts_come_out_as_they_are(fake):
    async def token():
        raise TimeoutError("the token server is slow")

    async def main():
        async with AsyncClient(fake.url, model="minilm", token=token) as client:
            with pytest.raises(TimeoutError, match="the token server"):
                await client.embed("a")

    asyncio.run(main())


def test_what_a_token_callable_raises_comes_out(fake, kind):
    def token():
        raise LookupError("no token in the vault")

    with kind(fake.url, model="minilm", token=token) as calling:
        with pytest.raises(LookupError, match="vault"):
            calling.embed(TEXTS)
        with pytest.raises(LookupError, match="vault"):
            list(calling.generate("hi", stream=True))
    assert fake.headers == []


def test_a_client_does_not_await(fake):
    async def token():
        return "x"

    with Client(fake.url, model="minilm", token=token) as client, pytest.raises(InvalidRequest, match="AsyncClient"):
        client.embed("a")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"headers": {"a b": "c"}}, "the header's name 'a b'"),
        ({"headers": {"a\r\n": "c"}}, "the header's name"),
        ({"headers": {"ä": "c"}}, "the header's name"),
        ({"headers": {3: "c"}}, "the header's name 3"),
        ({"headers": {"a": "b\nc: d"}}, "the value of header 'a' is empty, or holds a line break"),
        ({"headers": {"a": "ä"}}, "the value of header 'a'"),
        ({"headers": {"a": " b"}}, "the value of header 'a'"),
        ({"headers": {"a": ""}}, "the value of header 'a'"),
        ({"headers": {"a": b"c"}}, "the value of header 'a' is bytes, not str"),
        ({"headers": {"Content-Length": "3"}}, "written by the protocol itself"),
        ({"headers": {"grpc-timeout": "3S"}}, "written by the protocol itself"),
        ({"headers": {"key-bin": "3"}}, "written by the protocol itself"),
        ({"headers": [("a", "b")]}, "headers is list"),
        ({"headers": {"Authorization": "b"}, "token": "t"}, "both token and the header"),
        ({"token": "abc\n"}, "the token is empty, or holds a line break"),
        ({"token": ""}, "the token is empty"),
        ({"token": 7}, "the token is int"),
        ({"compression": "zstd"}, "compression 'zstd' is not one of gzip, deflate"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(options, words):
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        Client("grpc://h", **options)


def test_a_bad_token_is_not_shown(fake, kind):
    with kind(fake.url, model="minilm", token=lambda: "s3cret\n") as calling:
        with pytest.raises(InvalidRequest) as raised:
            calling.embed("a")
        assert "s3cret" not in str(raised.value)
        assert "s3cret" not in repr(calling)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=3))
def test_headers_that_pass_are_what_both_protocols_carry(headers):
    try:
        carried = Connection(Address("h"), headers=headers).headers()
    except InvalidRequest:
        return
    for name, value in carried:
        assert re.fullmatch(r"[a-z0-9_.-]+", name)
        assert not OWN_HEADERS.fullmatch(name)
        assert value.isascii()
        assert value.isprintable()
        assert value == value.strip() != ""


def test_headers_and_tokens_stay_with_their_server(kind):
    with FAKES["http"]() as elsewhere:

        def redirect(connection):
            connection.recv(65536)
            head = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(head.encode())

        with (
            raw_socket(redirect) as address,
            kind(f"http://{address}", model="minilm", token="abc") as calling,
            pytest.raises(ServerFailed, match="307"),
        ):
            calling.embed("a")
    assert elsewhere.headers == []


# --- compression


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_compression_makes_requests_smaller_and_nothing_else(fake, kind, certificates, compression):
    texts = ["word " * 20_000]
    with (
        tls_front(fake.url, certificates) as front,
        kind(front.url, model="minilm", tls=tls_of(certificates), compression=compression) as client,
    ):
        np.testing.assert_array_equal(client.embed(texts), expected(texts))
        assert client.generate("hi").text == "hello"
    assert (front.sent < 20_000) == (compression is not None)


def test_answers_are_asked_for_as_they_are(kind):
    with FAKES["http"]() as fake, kind(fake.url, model="minilm") as client:
        client.embed("a")
    assert {headers["accept-encoding"] for headers in fake.headers} == {"identity"}
