"""Callers' own tests: a client whose server is a function."""

import asyncio
import re
import time

import numpy as np
import pytest
from client_kinds import DELTAS

from tritonyard import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    Delta,
    Generate,
    GetConfig,
    Infer,
    InvalidRequest,
    MockTransport,
    ModelConfig,
    Probe,
    ServerFailed,
    ServerOverloaded,
    TensorConfig,
    TritonyardError,
)
from yard.checkout import ROOT


def lengths(call):
    """Embed each text as its length, and answer prompts with DELTAS."""
    match call:
        case Infer(model="lengths"):
            return {"embedding": np.array([[len(text)] for [text] in call.arrays["text"]], np.float32)}
        case Generate():
            return DELTAS


def test_embeddings_are_what_the_function_says(kind):
    with kind(model="lengths", transport=MockTransport(lengths)) as client:
        assert client.embed(["a", "bcd", ""]).tolist() == [[1], [3], [0]]
        assert client.embed(["word " * 200] * 100).shape == (100, 1)
        assert client.embed([]).shape == (0, 0)
        assert client.ready() is True
        assert client.model_ready() is True


def test_generations_are_what_the_function_says(kind):
    with kind(model="any", transport=MockTransport(lengths)) as client:
        answer = client.generate("hi", max_tokens=3)
        assert (answer.text, answer.finish_reason) == ("héllo\n", "stop")
        assert list(client.chat([{"role": "user", "content": "hi"}], stream=True)) == DELTAS


def test_the_function_sees_what_was_asked(kind):
    seen = []

    def handler(call):
        seen.append(call)
        return lengths(call)

    with kind(model="any", transport=MockTransport(handler)) as client:
        client.generate("hi", max_tokens=3, stop=["\n"])
    (call,) = seen
    assert (call.model, call.stream) == ("any", False)
    assert {name: content for name, (_, content) in call.inputs.items()} == {
        "text_input": ("hi",),
        "max_tokens": (3,),
        "stop_words": ("\n",),
    }


@pytest.mark.parametrize("error", [ServerOverloaded("the queue is full"), LookupError("a bug")])
def test_what_the_function_raises_comes_out(kind, error):
    def handler(call):
        raise error

    with kind(model="m", transport=MockTransport(handler)) as client:
        for ask in (
            lambda: client.embed("a"),
            lambda: client.generate("a"),
            lambda: list(client.generate("a", stream=True)),
        ):
            with pytest.raises(type(error)) as raised:
                ask()
            assert raised.value is error


def test_a_server_that_is_not_there_is_not_ready(kind):
    def handler(call):
        raise ServerOverloaded("the queue is full")

    with kind(transport=MockTransport(handler)) as client:
        assert client.ready() is False
    with kind(transport=MockTransport(lambda call: not isinstance(call, Probe))) as client:
        assert client.ready() is False


def test_a_stream_breaks_off_where_the_iterable_does(kind):
    def handler(call):
        yield DELTAS[0]
        raise ServerFailed("the engine broke")

    for broken, words in ((handler, "the engine broke"), (lambda call: DELTAS[:1], "ended without a finish_reason")):
        with (
            kind(model="m", transport=MockTransport(broken)) as client,
            pytest.raises(ServerFailed, match=words),
        ):
            client.generate("a")


def test_any_model_is_what_the_function_declares(kind):
    def handler(call):
        match call:
            case GetConfig(model="doubler"):
                return ModelConfig(0, {"x": TensorConfig("FP32", (-1,))}, {"y": TensorConfig("FP32", (-1,))})
            case Infer(outputs=("y",)):
                return {"y": call.arrays["x"] * 2}

    with kind(transport=MockTransport(handler)) as client:
        assert client.infer("doubler", x=[1.0, 2.5])["y"].tolist() == [2, 5]
        with pytest.raises(InvalidRequest, match="no input 'y'"):
            client.infer("doubler", y=[1.0])


def test_a_function_that_forgets_a_call_is_told(kind):
    with kind(model="m", transport=MockTransport(lambda call: None)) as client:
        for ask in (lambda: client.embed("a"), lambda: client.generate("a")):
            with pytest.raises(TypeError, match=r"returned None for (Infer|Generate)"):
                ask()


def test_a_loop_that_is_left_asks_for_no_more():
    written = []

    def handler(call):
        for count in range(10):
            written.append(count)
            yield Delta("x", None, 1, count)

    with Client(model="m", transport=MockTransport(handler)) as client:
        for _ in client.generate("a", stream=True):
            break
        stream = client.generate("a", stream=True)
        for _ in stream:
            stream.close()
    assert len(written) <= 3

    async def main():
        async with AsyncClient(model="m", transport=MockTransport(handler)) as client:
            async for _ in client.generate("a", stream=True):
                break

    written.clear()
    asyncio.run(main())
    assert len(written) == 1


def test_a_slow_function_meets_the_deadline(kind):
    def handler(call):
        time.sleep(0.02)
        return lengths(call)

    with (
        kind(model="lengths", transport=MockTransport(handler)) as client,
        pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"),
    ):
        client.embed("a", timeout=0.01)


def test_refusals_are_those_of_a_real_client(kind):
    with kind(model="lengths", transport=MockTransport(lengths)) as client:
        with pytest.raises(InvalidRequest, match="text 0 is int"):
            client.embed([3])
        client.close()
        with pytest.raises(TritonyardError, match="closed"):
            client.embed("a")


def test_the_example_of_the_readme_works():
    readme = (ROOT / "clients" / "README.md").read_text()
    (example,) = (each for each in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "MockTransport" in each)
    names = {}
    exec(example, names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()
