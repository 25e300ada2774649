"""How servers are reached: addresses, and TLS that is refused where it should be, with what mends it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from client_kinds import FAKES, GRACE_S, expected, mixed_texts
from fake_kserve import raw_socket, said
from tls_front import make_certificates, tls_front, tls_of

from tritonyard import (
    Client,
    DeadlineExceeded,
    InvalidRequest,
    ServerUnavailable,
    Tls,
)
from tritonyard._connection import Address, tls_mend
from tritonyard._mock import EMBEDS

TEXTS = mixed_texts(60)
HELD_S = 0.2


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_everything_works_over_tls(fake, kind, certificates):
    with (
        tls_front(fake.url, certificates) as front,
        kind(front.url, model="minilm", tls=tls_of(certificates)) as client,
    ):
        assert client.ready()
        np.testing.assert_array_equal(client.embed(TEXTS), expected(TEXTS))
        np.testing.assert_array_equal(client.embed("again"), expected(["again"]))
        assert client.generate("hi").text == "hello"
        assert "".join(delta.text for delta in client.generate("hi", stream=True)) == "hello"


def test_a_caller_proves_who_it_is(fake, kind, certificates):
    with tls_front(fake.url, certificates, mutual=True) as front:
        with kind(front.url, model="minilm", tls=tls_of(certificates, caller="caller")) as client:
            np.testing.assert_array_equal(client.embed("a"), expected(["a"]))
        for caller in (None, "impostor"):
            with kind(front.url, model="minilm", tls=tls_of(certificates, caller=caller), timeout=5) as client:
                with pytest.raises(ServerUnavailable, match=r"TLS: .*tls=Tls\(certificate=..., key=...\)"):
                    client.embed("a")
                assert not client.ready()
    assert fake.configs == 1


@pytest.mark.parametrize(
    ("name", "ca", "mend"),
    [
        ("server", "stranger", r"name the CA that signed the server's certificate: tls=Tls\(ca=...\)"),
        ("server", None, "name the CA that signed"),
        ("elsewhere", "ca", "write in url the name that the server's certificate is for"),
        ("expired", "ca", "renew the server's certificate"),
    ],
)
def test_a_server_that_does_not_prove_who_it_is(fake, kind, certificates, name, ca, mend):
    tls = None if ca is None else tls_of(certificates, ca)
    with tls_front(fake.url, certificates, name) as front, kind(front.url, model="minilm", tls=tls) as client:
        begun = time.monotonic()
        with pytest.raises(ServerUnavailable, match=f"this is about TLS: {mend}"):
            client.embed("a", timeout=5)
        assert client.ready() is False
        assert time.monotonic() - begun < 2
    assert fake.headers == []


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_server_without_tls_is_told_from_one_that_is_not_there(fake, kind, certificates, scheme):
    address, tls = fake.url.split("://")[1], tls_of(certificates)
    with (
        kind(f"{scheme}://{address}", model="m", tls=tls) as client,
        pytest.raises(ServerUnavailable, match="this is about TLS"),
    ):
        client.embed("a", timeout=5)
    with kind(f"{scheme}://127.0.0.1:1", model="m", tls=tls) as client, pytest.raises(ServerUnavailable) as raised:
        client.embed("a", timeout=5)
    assert "TLS" not in raised.value.mend


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_handshake_that_never_ends_meets_the_deadline(kind, certificates, scheme):
    with (
        raw_socket(lambda connection: time.sleep(1)) as address,
        kind(f"{scheme}://{address}", model="m", tls=tls_of(certificates)) as client,
    ):
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.embed("a", timeout=HELD_S)
        assert time.monotonic() - begun < HELD_S + GRACE_S


def test_what_is_sent_over_tls_keeps_the_deadline(certificates):
    big = ["word " * 2_000_000]

    def sip(connection):
        while connection.recv(65536):
            time.sleep(0.004)

    with (
        raw_socket(sip) as address,
        tls_front(f"http://{address}", certificates) as front,
        Client(front.url, model="minilm", tls=tls_of(certificates)) as client,
    ):
        client._configs["minilm"] = EMBEDS
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.embed(big, timeout=HELD_S)
        assert time.monotonic() - begun < HELD_S + GRACE_S


def test_closing_a_stream_over_tls_wakes_its_reader(certificates):
    with FAKES["http"]() as fake, tls_front(fake.url, certificates) as front:
        release = threading.Event()

        def write(inputs):
            yield said("a")
            release.wait(5)

        fake.write = write
        with Client(front.url, model="minilm", tls=tls_of(certificates)) as client:
            stream = client.generate("hi", stream=True)
            threading.Timer(HELD_S, stream.close).start()
            begun = time.monotonic()
            assert [delta.text for delta in stream] == ["a"]
            assert time.monotonic() - begun < HELD_S + GRACE_S
        release.set()


def test_idle_connections_over_tls_are_used_again_and_left_when_dead(certificates):
    with FAKES["http"]() as fake:
        with tls_front(fake.url, certificates) as front:
            client = Client(front.url, model="minilm", tls=tls_of(certificates), timeout=2)
            for _ in range(3):
                client.embed("a")
            (idle,) = client._endpoints.all[0].transport._idle
            assert idle.alive()
        deadline = time.monotonic() + 2
        while idle.alive():
            assert time.monotonic() < deadline
        with pytest.raises(ServerUnavailable):
            client.embed("a")
        client.close()


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (lambda made: Tls(made.folder / "none.pem"), r"tls\.ca '.*none\.pem' is not a file"),
        (lambda made: Tls(made.key("ca")), r"tls\.ca '.*ca\.key' holds no certificate"),
        (lambda made: Tls(key=made.key("caller")), "tls has a key and no certificate"),
        (lambda made: Tls(made.pem("ca"), made.pem("caller"), made.key("server")), "are no pair"),
        (lambda made: Tls(made.pem("ca"), made.pem("caller")), "are no pair"),
        (lambda made: Tls(made.pem("ca"), made.key("caller")), "are no pair"),
    ],
)
@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_bad_files_are_refused_at_once(certificates, scheme, tls, words):
    with pytest.raises(InvalidRequest, match=words):
        Client(f"{scheme}://h", tls=tls(certificates))


def test_a_key_may_stand_in_the_certificates_file(certificates, kind):
    both = certificates.folder / "both.pem"
    both.write_bytes(certificates.pem("caller").read_bytes() + certificates.key("caller").read_bytes())
    for fake_of in FAKES.values():
        with fake_of() as fake, tls_front(fake.url, certificates, mutual=True) as front:
            tls = Tls(certificates.pem("ca"), both)
            with kind(front.url, model="minilm", tls=tls) as client:
                assert client.ready()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_tls_needs_an_encrypted_url(kind, scheme):
    with pytest.raises(InvalidRequest, match=f"is not encrypted; write {scheme}s://h:7"):
        kind(f"{scheme}://h:7", tls=Tls())


@pytest.mark.parametrize(
    ("url", "known", "is_grpc", "is_encrypted"),
    [
        ("h", "grpc://h:8001", True, False),
        ("grpcs://h", "grpcs://h:8001", True, True),
        ("http://h", "http://h:8000", False, False),
        ("https://h", "https://h:443", False, True),
        ("https://[::1]:7/", "https://[::1]:7", False, True),
    ],
)
def test_addresses(url, known, is_grpc, is_encrypted):
    address = Address(url)
    assert (str(address), address.is_grpc, address.is_encrypted) == (known, is_grpc, is_encrypted)


def test_only_words_about_tls_are_mended_as_such():
    assert tls_mend("ConnectionRefusedError: [Errno 111] Connection refused") is None
    assert tls_mend("Server is stopping") is None


def test_a_stream_that_is_refused_before_it_is_read_says_why(kind):
    """grpc.aio, given an iterator of messages, loses the server's words about one time in ten."""
    server = grpc.server(ThreadPoolExecutor(2))  # knows no method
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with kind(f"grpc://127.0.0.1:{port}", model="m") as client:
        for _ in range(60):
            with pytest.raises(InvalidRequest, match="Method not found"):
                client.generate("hi")
    server.stop(None).wait()
