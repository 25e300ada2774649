"""Greenlets, as Locust has them: calls and streams side by side, over TLS and with tokens, and a loop that goes on."""

import subprocess
import sys
import time

import pytest
from fake_kserve import fake_grpc, fake_http, said
from tls_front import make_certificates, tls_front

# Twelve calls, twelve streams of five deltas; one after another they would take 24 times HELD_S and more.
COUNT, HELD_S = 12, 0.5

LOCUST_LIKE = """
import gevent.monkey; gevent.monkey.patch_all()
import grpc.experimental.gevent; grpc.experimental.gevent.init_gevent()
import sys, time, gevent
from tritonyard import Client, Tls

# As loadtests/locustfile.py does: a call that is not streamed is read by a thread of this pool.
gevent.get_hub().threadpool.maxsize = 100
count, held, ca, *urls = sys.argv[1:]
count, held = int(count), float(held)

def tick():
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.01)

def token():
    gevent.sleep(0.01)
    return "fresh"

def read(client):
    deltas.extend(client.generate("hi", stream=True))

for url in urls:
    with Client(url, model="minilm", token=token, tls=Tls(ca)) as client:
        client.embed("a")  # what is loaded and connected once
        ticks, deltas = [], []
        heart = gevent.spawn(tick)
        begun = time.monotonic()
        calls = [gevent.spawn(client.embed, "a") for _ in range(count)]
        streams = [gevent.spawn(read, client) for _ in range(count)]
        gevent.joinall([*calls, *streams], raise_error=True)
        took = time.monotonic() - begun
        heart.kill()
    longest = max(after - before for before, after in zip(ticks, ticks[1:]))
    print(url, round(took, 2), len(ticks), round(longest, 3))
    assert len(deltas) == 5 * count
    assert took < count * held / 2, "calls waited for each other"
    assert longest < held, "a call held the loop for as long as the server took"
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.build
def test_no_call_holds_the_loop(certificates):
    def write(inputs):
        for count in range(5):
            time.sleep(HELD_S / 5)
            yield said("x", "stop" if count == 4 else "", count)

    with (
        fake_grpc() as one,
        fake_http() as other,
        tls_front(one.url, certificates) as one_front,
        tls_front(other.url, certificates) as other_front,
    ):
        for fake in (one, other):
            fake.answer, fake.write = lambda texts, parameters: time.sleep(HELD_S), write
        arguments = [str(COUNT), str(HELD_S), str(certificates.pem("ca")), one_front.url, other_front.url]
        run = subprocess.run(
            [sys.executable, "-c", LOCUST_LIKE, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        for fake in (one, other):
            assert {headers["authorization"] for headers in fake.headers} == {"Bearer fresh"}
