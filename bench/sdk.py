"""Figures of the SDK against tritonclient by hand, as its documentation shows it: the same requests, in turns.

The models of `bench/models` answer at once and compute nothing, so that the callers are what is measured. Beside them
stand the two real models, where a caller's share is what their own callers will see.
"""

import asyncio
import queue
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

from bench.figure import Figure, in_turns, ratio
from serving.server import Server
from tritonyard import AsyncClient, Client

# How many calls, or tokens, a round is: short, so that what else the machine does meets both sides, and many of them.
CALLS, CALL_ROUNDS = 10, 300
TOKENS, TOKEN_ROUNDS = 200, 100
STREAMS, STREAM_TOKENS, STREAM_ROUNDS = 64, 30, 101
REAL_CALL_ROUNDS, REAL_TOKENS, REAL_TOKEN_ROUNDS = 400, 64, 25
UNARY, TOKEN = 1.05, 1.10
IDLE = "idle model"
TEXT = "How do I reset my password? I forgot it, and the link in the mail has expired."
ARRAY = np.full((1, 384), 0.5, np.float32)
LIBRARIES: dict[tuple[str, str], ModuleType] = {
    ("grpc", "sync"): tritonclient.grpc,
    ("grpc", "async"): tritonclient.grpc.aio,
    ("http", "sync"): tritonclient.http,
    ("http", "async"): tritonclient.http.aio,
}
DTYPES: dict[str, Any] = {"BYTES": np.object_, "BOOL": np.bool_, "INT32": np.int32, "FP32": np.float32}


def figures(server: Server, report: Callable[[str], None]) -> Iterator[Figure]:
    """Take every figure over `server`, which serves the models of `bench/models`."""
    for (protocol, kind), library in LIBRARIES.items():
        url = server.grpc_url if protocol == "grpc" else server.http_url
        report(f"calls, {protocol} {kind}")
        calls = sync_calls if kind == "sync" else async_calls
        for name, (here, there) in calls(url, library).items():
            what = f"time of {name}, {protocol} {kind}, {IDLE} / tritonclient by hand"
            yield ratio(f"{name} {protocol} {kind}", what, here, there, UNARY, at_least=False, proved=True)
    report("tokens")
    for kind, tokens in (("sync", sync_tokens), ("async", async_tokens)):
        what = f"time a token, grpc {kind}, {IDLE} / tritonclient by hand"
        here, there = tokens(server.grpc_url, "generator", TOKENS, TOKEN_ROUNDS)
        yield ratio(f"token {kind}", what, here, there, TOKEN, at_least=False, proved=True)
    report(f"{STREAMS} streams")
    yield many_streams(server.grpc_url)


def of_embedding(server: Server, model: str, report: Callable[[str], None]) -> Figure:
    """One text a call, to the real model of that name."""
    report(f"calls, {model}")
    with Client(server.grpc_url, model=model) as client, opened(tritonclient.grpc, server.grpc_url) as raw:
        here, there = in_turns(
            lambda: client.embed([TEXT]), lambda: embedded_by_hand(tritonclient.grpc, raw, model), REAL_CALL_ROUNDS
        )
    what = f"time of embed, grpc sync, {model} / tritonclient by hand"
    return ratio(f"embed {model}", what, here, there, UNARY, at_least=False, proved=True)


def of_generating(server: Server, model: str, report: Callable[[str], None]) -> Figure:
    """One stream, of the real model of that name."""
    report(f"tokens, {model}")
    here, there = sync_tokens(server.grpc_url, model, REAL_TOKENS, REAL_TOKEN_ROUNDS)
    what = f"time a token, grpc sync, {model} / tritonclient by hand"
    return ratio(f"token {model}", what, here, there, TOKEN, at_least=False, proved=True)


Times = tuple[list[float], list[float]]


def sync_calls(url: str, library: ModuleType) -> dict[str, Times]:
    """Return the times of CALLS calls of either side, by method."""
    with Client(url, model="embedder") as client, opened(library, url) as raw:
        return {
            "embed": in_turns(
                lambda: [client.embed([TEXT]) for _ in range(CALLS)],
                lambda: [embedded_by_hand(library, raw, "embedder") for _ in range(CALLS)],
                CALL_ROUNDS,
            ),
            "infer": in_turns(
                lambda: [client.infer("identity", x=ARRAY) for _ in range(CALLS)],
                lambda: [inferred_by_hand(library, raw) for _ in range(CALLS)],
                CALL_ROUNDS,
            ),
        }


def async_calls(url: str, library: ModuleType) -> dict[str, Times]:
    """Return the same of the asynchronous sides."""

    async def repeated(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        for _ in range(CALLS):
            await call()

    async def embed_by_hand(raw: Any) -> Any:
        return (await raw.infer("embedder", **text_tensors(library))).as_numpy("embedding")

    async def infer_by_hand(raw: Any) -> Any:
        return (await raw.infer("identity", **array_tensors(library))).as_numpy("y")

    with asyncio.Runner() as runner:
        run = runner.run
        client, raw = run(made(AsyncClient, url, model="embedder")), run(made(library.InferenceServerClient, host(url)))
        found = {
            "embed": in_turns(
                lambda: run(repeated(lambda: client.embed([TEXT]))),
                lambda: run(repeated(lambda: embed_by_hand(raw))),
                CALL_ROUNDS,
            ),
            "infer": in_turns(
                lambda: run(repeated(lambda: client.infer("identity", x=ARRAY))),
                lambda: run(repeated(lambda: infer_by_hand(raw))),
                CALL_ROUNDS,
            ),
        }
        run(client.close())
        run(raw.close())
    return found


def sync_tokens(url: str, model: str, tokens: int, rounds: int) -> Times:
    """Return the times of one stream of `tokens`, of either side."""
    with Client(url, model=model) as client, StreamByHand(url, model) as by_hand:
        return in_turns(lambda: streamed(client, tokens), lambda: by_hand.read(tokens), rounds)


def async_tokens(url: str, model: str, tokens: int, rounds: int) -> Times:
    """Return the same of the asynchronous sides."""
    library = tritonclient.grpc.aio

    async def read(client: AsyncClient) -> None:
        deltas = [delta async for delta in client.generate(TEXT, stream=True, **lengths(tokens))]
        assert deltas[-1].num_output_tokens == tokens

    async def read_by_hand(raw: Any) -> None:
        async def requests() -> Any:
            yield {"model_name": model, "inputs": prompt_tensors(library, tokens)}

        texts = []
        async for result, error in raw.stream_infer(requests()):
            assert error is None, error
            texts.append(result.as_numpy("text_output").item().decode())
            if result.as_numpy("finish_reason").item():
                break
        assert result.as_numpy("num_output_tokens").item() == tokens

    with asyncio.Runner() as runner:
        run = runner.run
        client, raw = run(made(AsyncClient, url, model=model)), run(made(library.InferenceServerClient, host(url)))
        found = in_turns(lambda: run(read(client)), lambda: run(read_by_hand(raw)), rounds)
        run(client.close())
        run(raw.close())
    return found


def many_streams(url: str) -> Figure:
    """STREAMS threads with a stream each: one Client, against as many clients of tritonclient."""
    with ExitStack() as stack:
        client = stack.enter_context(Client(url, model="generator"))
        by_hand = [stack.enter_context(StreamByHand(url, "generator")) for _ in range(STREAMS)]
        pool = stack.enter_context(ThreadPoolExecutor(STREAMS))
        there, here = in_turns(
            lambda: list(pool.map(lambda each: each.read(STREAM_TOKENS), by_hand)),
            lambda: list(pool.map(lambda _: streamed(client, STREAM_TOKENS), range(STREAMS))),
            STREAM_ROUNDS,
        )
    what = f"throughput, {STREAMS} streams of one Client, {IDLE} / of {STREAMS} clients by hand"
    figure = ratio("streams", what, there, here, 1.0, at_least=True, proved=True)
    tokens = STREAMS * STREAM_TOKENS
    figure.detail["by_hand_tokens_per_s"] = tokens / figure.detail["over_s"]
    figure.detail["tokens_per_s"] = tokens / figure.detail["under_s"]
    return figure


def streamed(client: Client, tokens: int) -> None:
    """Read one stream of the SDK."""
    deltas = list(client.generate(TEXT, stream=True, **lengths(tokens)))
    assert deltas[-1].num_output_tokens == tokens


class StreamByHand:
    """A client of tritonclient with its stream open, whose answers come in a queue."""

    def __init__(self, url: str, model: str):
        self._model, self._answers = model, queue.Queue[Any]()
        self._client = tritonclient.grpc.InferenceServerClient(host(url))
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def read(self, tokens: int) -> None:
        """Send one request and read its answers."""
        self._client.async_stream_infer(self._model, prompt_tensors(tritonclient.grpc, tokens))
        texts, finished = [], b""
        while not finished:
            result, error = self._answers.get()
            assert error is None, error
            texts.append(result.as_numpy("text_output").item().decode())
            finished = result.as_numpy("finish_reason").item()
        assert result.as_numpy("num_output_tokens").item() == tokens

    def __enter__(self) -> "StreamByHand":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_stream()
        self._client.close()


def embedded_by_hand(library: ModuleType, raw: Any, model: str) -> Any:
    """Embed TEXT."""
    return raw.infer(model, **text_tensors(library)).as_numpy("embedding")


def inferred_by_hand(library: ModuleType, raw: Any) -> Any:
    """Send ARRAY there and back."""
    return raw.infer("identity", **array_tensors(library)).as_numpy("y")


def text_tensors(library: ModuleType) -> dict[str, Any]:
    """Return the inputs and outputs of an embedding."""
    return {
        "inputs": [tensor(library, "text", "BYTES", np.array([[TEXT.encode()]], np.object_))],
        "outputs": [library.InferRequestedOutput("embedding")],
    }


def array_tensors(library: ModuleType) -> dict[str, Any]:
    """Return the inputs and outputs of the model identity."""
    return {"inputs": [tensor(library, "x", "FP32", ARRAY)], "outputs": [library.InferRequestedOutput("y")]}


def prompt_tensors(library: ModuleType, tokens: int) -> list[Any]:
    """Return the inputs of a generation of exactly so many tokens."""
    values = {"text_input": ("BYTES", TEXT.encode()), "stream": ("BOOL", True)}
    values |= {name: ("INT32", count) for name, count in lengths(tokens).items()}
    return [
        tensor(library, name, datatype, np.array([[value]], DTYPES[datatype]))
        for name, (datatype, value) in values.items()
    ]


def lengths(tokens: int) -> dict[str, int]:
    """Return the settings of an answer of so many tokens."""
    return {"max_tokens": tokens, "min_tokens": tokens}


def tensor(library: ModuleType, name: str, datatype: str, array: Any) -> Any:
    """Return an input."""
    found = library.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


def opened(library: ModuleType, url: str) -> Any:
    """Return a client of tritonclient, as a context manager."""
    return library.InferenceServerClient(host(url))


def host(url: str) -> str:
    """Return host:port, as tritonclient wants it."""
    return url.split("://")[1]


async def made(kind: Any, *arguments: Any, **keywords: Any) -> Any:
    """Make a client in the loop that runs."""
    return kind(*arguments, **keywords)
