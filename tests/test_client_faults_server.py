"""The clients against a real tritonserver behind a proxy that breaks things: typed, in time, once, and nothing left."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from client_kinds import GRACE_S
from fault_callers import CALLERS, STEP, WRITER, busy, caller, executed, kept, nothing_left, wait_until
from fault_proxy import Way, fault_proxy
from live_server import live_server
from tls_front import make_certificates, tls_front, tls_of

from tritonyard import DeadlineExceeded, ServerUnavailable

pytestmark = [pytest.mark.server, pytest.mark.alone]

UNARY_S, STREAM_S = 0.4, 1.5
# More than any server here writes in STREAM_S.
LONG = {"min_tokens": 500, "max_tokens": 500}


@pytest.fixture(scope="module", autouse=True)
def _kept(server):
    with kept(server):
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left(server):
    with nothing_left(server):
        yield


@pytest.fixture(params=["grpc", "http"])
def url(request, server):
    return getattr(server, f"{request.param}_url")


@pytest.fixture
def proxy(_nothing_is_left, url):
    with fault_proxy(url) as standing:
        yield standing


@pytest.fixture(params=sorted(CALLERS))
def calling(request, server, proxy):
    """A caller by way of the proxy that has called once: the connection is there."""
    with caller(request.param, proxy.url, timeout=10) as found:
        before = executed(server, STEP)
        found.infer()
        # The statistics come after the answer.
        wait_until(lambda: executed(server, STEP) > before)
        yield found


def refuse(proxy):
    proxy.refuse()


def befall(direction, fault, after=0):
    def arm(proxy):
        setattr(proxy, direction, Way(fault, after))

    return arm


# What befalls a request; the error; how many requests may reach the server.
UNARY = {
    "connection refused": (refuse, ServerUnavailable, 0),
    "reset before the request": (befall("up", "reset"), ServerUnavailable, 0),
    "reset before the answer": (befall("down", "reset"), ServerUnavailable, 1),
    "reset in mid-answer": (befall("down", "reset", 50), ServerUnavailable, 1),
    "black hole": (befall("up", "hold"), DeadlineExceeded, 0),
    "answer withheld": (befall("down", "hold"), DeadlineExceeded, 1),
    "slow drip": (befall("down", "drip"), DeadlineExceeded, 1),
    "caller's half closed": (befall("up", "end"), ServerUnavailable, 0),
    "server's half closed": (befall("down", "end"), ServerUnavailable, 1),
}
# And a stream that has begun.
MIDSTREAM = {
    "connection refused": (refuse, ServerUnavailable),
    "reset": (befall("down", "reset"), ServerUnavailable),
    "black hole": (befall("down", "hold"), DeadlineExceeded),
    "slow drip": (befall("down", "drip"), DeadlineExceeded),
    "half closed": (befall("down", "end"), ServerUnavailable),
}


def fails(error, timeout_s, ask):
    """Ask, and see to it that the error comes, and in time."""
    begun = time.monotonic()
    with pytest.raises(error) as raised:
        ask()
    took = time.monotonic() - begun
    assert took < timeout_s + GRACE_S
    assert took > timeout_s - 0.05 or error is not DeadlineExceeded
    return raised.value


def works_again(proxy, calling):
    """The next call of the same client is served as soon as the fault is over."""
    proxy.heal()
    calling.infer(idempotent=True, timeout=1)


@pytest.mark.parametrize("fault", UNARY)
def test_a_fault_before_an_answer(server, proxy, calling, fault):
    arm, error, most = UNARY[fault]
    before = executed(server, STEP)
    arm(proxy)
    fails(error, UNARY_S, lambda: calling.infer(timeout=UNARY_S))
    works_again(proxy, calling)
    wait_until(lambda: executed(server, STEP) >= before + 1)
    assert executed(server, STEP) - before <= most + 1


@pytest.mark.parametrize("fault", UNARY)
def test_a_fault_before_the_first_delta(server, proxy, calling, fault):
    arm, error, most = UNARY[fault]
    before = executed(server, f"{WRITER}_tokenizer")
    arm(proxy)
    fails(error, UNARY_S, lambda: calling.read("One two", **LONG, timeout=UNARY_S))
    works_again(proxy, calling)
    wait_until(lambda: not busy(server))
    assert executed(server, f"{WRITER}_tokenizer") - before <= most


@pytest.mark.parametrize("fault", MIDSTREAM)
def test_a_fault_in_mid_stream(server, proxy, calling, fault):
    arm, error = MIDSTREAM[fault]
    before, seen = executed(server, f"{WRITER}_tokenizer"), []

    def on_delta(deltas):
        seen[:] = deltas
        if len(deltas) == 2:
            arm(proxy)

    fails(error, STREAM_S, lambda: calling.read("One two", on_delta, **LONG, timeout=STREAM_S))
    assert len(seen) >= 2
    works_again(proxy, calling)
    wait_until(lambda: not busy(server))
    assert executed(server, f"{WRITER}_tokenizer") - before == 1


def test_an_answer_that_breaks_off_anywhere_in_its_head_is_none(proxy, calling):
    for after in range(0, 100, 12):
        befall("down", "end", after)(proxy)
        fails(ServerUnavailable, UNARY_S, lambda: calling.infer(timeout=UNARY_S))
        works_again(proxy, calling)


def test_a_stream_that_is_closed_while_it_is_sent_ends_at_once(proxy):
    with caller("sync", proxy.url, timeout=10) as calling:
        calling.infer()
        (endpoint,) = calling.client._endpoints.all
        stream, send = calling.client.generate("a", stream=True, model=WRITER), endpoint.transport.stream

        def closed_meanwhile(*sent):
            answers = send(*sent)
            stream.close()
            return answers

        endpoint.transport.stream = closed_meanwhile
        befall("down", "hold")(proxy)
        begun = time.monotonic()
        assert list(stream) == []
        assert time.monotonic() - begun < 2
        del endpoint.transport.stream


@pytest.mark.parametrize("kind", sorted(CALLERS))
@pytest.mark.parametrize("fault", ["connection refused", "reset before the request", "reset before the answer"])
def test_what_may_be_done_twice_outlives_one_fault(proxy, kind, fault):
    events = []

    def on_event(event):
        events.append(event.kind)
        if event.kind == "retrying":
            proxy.heal()

    with caller(kind, proxy.url, timeout=5, on_event=on_event) as calling:
        calling.infer()
        for ask in (calling.infer, lambda **options: calling.read("One two", max_tokens=3, **options)):
            events.clear()
            UNARY[fault][0](proxy)
            assert ask(idempotent=True)
            assert events == ["sent", "retrying", "sent", "answered"]


@pytest.mark.parametrize("kind", sorted(CALLERS))
def test_a_front_with_the_certificate_of_another_ca(url, certificates, kind):
    with tls_front(url, certificates) as front:
        with caller(kind, front.url, tls=tls_of(certificates, "stranger")) as calling:
            for ask in (calling.infer, lambda **options: calling.read("a", **options)):
                error = fails(ServerUnavailable, 5, lambda ask=ask: ask(timeout=5))
                assert "this is about TLS: name the CA" in str(error)
        assert front.sent == 0
        with caller(kind, front.url, tls=tls_of(certificates)) as calling:
            assert calling.infer()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def mortal(repository, tmp_path_factory):
    """A server that a test ends, and starts again where it was."""
    with live_server(repository, tmp_path_factory.mktemp("mortal") / "log") as running:
        yield running


def test_a_server_that_is_killed_under_16_streams_and_started_again(mortal):
    """Four on each transport: all end at once, and the same clients are served by the new server's first answer."""
    with contextlib.ExitStack() as stack:
        urls = (mortal.grpc_url, mortal.http_url)
        callers = [stack.enter_context(caller(kind, url, timeout=30)) for url in urls for kind in CALLERS]
        begun = [0] * len(callers)

        def read(number):
            def on_delta(deltas):
                begun[number] += len(deltas) == 2

            return callers[number].read_at_once(4, on_delta, **LONG)

        with ThreadPoolExecutor(len(callers)) as pool:
            endings = pool.map(read, range(len(callers)))
            wait_until(lambda: begun == [4] * len(callers), 20)
            mortal.stop(at_once=True)
            stopped = time.monotonic()
            ended = [type(ending) for four in endings for ending in four]
            assert time.monotonic() - stopped < 2
        assert ended == [ServerUnavailable] * 16
        for calling in callers:
            fails(ServerUnavailable, 1, lambda calling=calling: calling.infer(timeout=1))
        mortal.start()
        mortal.wait_until_live(60)
        for calling in callers:
            assert calling.infer(timeout=2)
            assert len(calling.read("One two", max_tokens=4)) >= 2
