"""What an answer cost: its tokens and its time, told by a stream while it grows and by a whole answer."""

import asyncio
import itertools
import time
from types import SimpleNamespace

import pytest
from fake_kserve import said

from tritonyard import AsyncClient, Client, Delta, Generation, Timing, Usage
from tritonyard._growth import Growth

PAUSE_S = 0.02


def paced(inputs):
    """Write "hé" and "llo" of two tokens after a pause each, and why it ends after one more."""
    for answer in (said("", count=0), said("hé", count=1), said("llo", count=3), said("", "stop", 3)):
        yield answer
        time.sleep(PAUSE_S)


def uncounted(inputs):
    for answer in paced(inputs):
        yield {name: value for name, value in answer.items() if not name.startswith("num_")}


def told(stream):
    return stream.text, stream.usage, stream.finish_reason


# Seconds after the sending, text, tokens so far.
@pytest.mark.parametrize(
    ("deltas", "timing"),
    [
        ([], Timing()),
        ([(1, "a", 1)], Timing(1, 1, None)),
        ([(1, "a", 1), (3, "b", 2)], Timing(1, 3, 2)),
        ([(1, "a", 2), (4, "b", 5), (9, "", 5)], Timing(1, 9, 1)),  # the end of an answer is no token
        ([(1, "", 1), (2, "a", 2), (8, "b", 4)], Timing(2, 8, 3)),  # what is held back is not the first text
        ([(2, "a", None), (8, "b", None)], Timing(2, 8, None)),
        ([(2, "", 0)], Timing(None, 2, None)),
    ],
)
def test_timing_is_of_what_the_caller_saw(monkeypatch, deltas, timing):
    ticks = iter([100.0, *(100.0 + seconds for seconds, _, _ in deltas)])
    monkeypatch.setattr("tritonyard._growth.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    growth = Growth()
    growth._begin()
    for _, text, count in deltas:
        growth._grow(Delta(text, None, 3, count))
    assert growth.timing == timing


def test_a_stream_tells_of_itself_while_it_grows(fake):
    fake.write = paced
    with Client(fake.url, model="minilm") as client:
        stream = client.generate("hi", stream=True)
        assert (told(stream), stream.timing) == (("", Usage(None, None), None), Timing())
        seen = [(told(stream), stream.timing) for _ in stream]
    _check(seen, stream)


def test_an_async_stream_tells_of_itself_while_it_grows(fake):
    fake.write = paced

    async def main():
        async with AsyncClient(fake.url, model="minilm") as client:
            stream = client.chat([{"role": "user", "content": "hi"}], stream=True)
            assert (told(stream), stream.timing) == (("", Usage(None, None), None), Timing())
            return [(told(stream), stream.timing) async for _ in stream], stream

    _check(*asyncio.run(main()))


def _check(seen, stream):
    words, timings = zip(*seen, strict=True)
    assert words == (("hé", Usage(3, 1), None), ("héllo", Usage(3, 3), None), ("héllo", Usage(3, 3), "stop"))
    assert (told(stream), stream.timing) == seen[-1]
    first, second, last = timings
    assert first == Timing(first.first_token, first.first_token, None)
    assert first.first_token >= 0.9 * PAUSE_S
    assert first.first_token == second.first_token == last.first_token
    assert second.between_tokens == last.between_tokens == pytest.approx((second.total - first.total) / 2)
    assert all(earlier.total < later.total for earlier, later in itertools.pairwise(timings))


def test_a_stream_that_is_left_tells_what_came(fake):
    fake.write = paced
    with Client(fake.url, model="minilm") as client:
        stream = client.generate("hi", stream=True)
        for _ in stream:
            break
    assert told(stream) == ("hé", Usage(3, 1), None)


def test_a_server_that_does_not_count(fake):
    fake.write = uncounted
    with Client(fake.url, model="minilm") as client:
        stream = client.generate("hi", stream=True)
        assert [delta.num_output_tokens for delta in stream] == [None] * 3
        assert told(stream) == ("héllo", Usage(None, None), "stop")
        assert stream.timing.first_token < stream.timing.total
        assert stream.timing.between_tokens is None
        fake.write = lambda inputs: itertools.islice(uncounted(inputs), 3, None)
        assert client.generate("hi").usage == Usage(None, None)


def test_a_whole_answer_tells_its_tokens_and_its_total(client, fake):
    def write(inputs):
        time.sleep(PAUSE_S)
        yield said("héllo", "length", 7)

    fake.write = write
    for answer in (client.generate("hi"), client.chat([{"role": "user", "content": "hi"}])):
        assert answer == Generation("héllo", "length", 3, 7)
        assert answer.usage == Usage(3, 7)
        assert answer.timing.total >= 0.9 * PAUSE_S
        assert answer.timing == Timing(total=answer.timing.total)


def test_answers_that_say_the_same_are_equal_however_long_they_took():
    assert Generation("a", "stop", 1, 1, Timing(total=1)) == Generation("a", "stop", 1, 1, Timing(total=2))


@pytest.mark.server
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_real_server_counts_alike_streamed_and_whole(server, protocol):
    with Client(getattr(server, f"{protocol}_url"), model="smollm2", timeout=60) as client:
        stream = client.generate("The sea is", max_tokens=8, stream=True)
        texts = [delta.text for delta in stream]
        whole = client.generate("The sea is", max_tokens=8)
    assert told(stream) == ("".join(texts), Usage(3, 8), "length")
    assert told(whole) == told(stream)
    assert 0 < stream.timing.first_token < stream.timing.total
    assert 0 < stream.timing.between_tokens < stream.timing.total
