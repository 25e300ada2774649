"""Figures of the generation chain against its peers, on the same weights in 8 bits, side by side in one run.

OpenVINO GenAI runs in a process of its own (`openvino_peer.py`), with its own defaults, and is compared with our engine
in this process. llama.cpp's own server (`make bench-setup` builds it) is asked over HTTP, a parallel slot a stream, and
compared with ours through Triton, both streamed.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from bench.figure import ROUNDS, Figure, in_turns, ratio
from bench.llama_server import BINARY, LlamaServer
from pipeline import openvino_decoder
from tritonyard import Client
from yard.console import err

PREFILL = (128, 512)
# Rounds of a prefill, each less than a second.
PROMPTS = 31
STREAMS = (1, 4, 8, 16)
# Of a decoding stream: so few tokens in that prefill hardly counts.
SHORT, TOKENS = 8, 64
REQUESTS = 2
LENGTH = 1024
THREADS = 2

Texts: TypeAlias = Iterator[tuple[str, list[int]]]
# Token ids in, so many tokens out.
Generate: TypeAlias = Callable[[list[int], int], object]
# The same of several prompts at once.
Ask: TypeAlias = Callable[[list[list[int]], int], None]


def figures(
    client: Client,
    inside: Generate,
    texts: Iterator[tuple[str, list[int]]],
    checkpoint: Path,
    report: Callable[[str], None],
) -> Iterator[Figure]:
    """Take every figure against the peers that are here; `texts` are endless, each of TOKENS tokens.

    `client` asks the server, `inside` the engine in this process; `checkpoint` is the GGUF file of both.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        if find_spec("openvino_genai"):
            report("OpenVINO GenAI")
            openvino_decoder.build(checkpoint, "llama", folder)
            yield from against_openvino(inside, texts, folder)
        else:
            err.print("left out: the figures against OpenVINO GenAI; `make setup` installs it")
        if BINARY.exists():
            report("llama.cpp")
            openvino_decoder.round_weights(checkpoint, folder / "q8.gguf")
            yield from against_llama_cpp(client, texts, folder / "q8.gguf")
        else:
            err.print("left out: the figures against llama.cpp's server; `make bench-setup` builds it")


def against_openvino(inside: Generate, texts: Texts, folder: Path) -> Iterator[Figure]:
    """Prefill of one prompt, and decoding of several at once: tokens a second, ours / theirs."""
    with openvino(folder) as ask:
        for length in PREFILL:
            yield prefill(inside, ask, prompts(texts, length), length)
        for streams in STREAMS:
            yield decode(inside, ask, prompts(texts, SHORT), streams)


@contextmanager
def openvino(folder: Path) -> Iterator[Ask]:
    """OpenVINO GenAI over the engine in `folder`; yields what asks it."""
    script = str(Path(__file__).with_name("openvino_peer.py"))
    command = [sys.executable, script, str(folder), str(max(STREAMS)), str(THREADS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        stdin, stdout = peer.stdin, peer.stdout
        assert stdin is not None
        assert stdout is not None

        def ask(rows: list[list[int]], tokens: int) -> None:
            print(json.dumps([rows, tokens]), file=stdin, flush=True)
            assert json.loads(stdout.readline()) == tokens * len(rows)

        yield ask
        stdin.close()


def prefill(inside: Generate, ask: Ask, rows: Iterator[list[int]], length: int) -> Figure:
    """One prompt of `length` tokens, and the token that follows."""
    # The memory of a slot is mapped when it is first written, which adds 4 % to the first prompt of 512 tokens there.
    for _ in range(max(STREAMS)):
        inside(next(rows), 1)
        ask([next(rows)], 1)
    theirs, ours = in_turns(lambda: ask([next(rows)], 1), lambda: inside(next(rows), 1), PROMPTS)
    what = f"prompt tokens/s, {length} tokens in, in process / OpenVINO GenAI int8"
    return _rates(ratio(f"prefill {length} to OpenVINO", what, theirs, ours, 0.9, at_least=True), length)


def decode(inside: Generate, ask: Ask, rows: Iterator[list[int]], streams: int) -> Figure:
    """TOKENS of each of the `streams`, all at once."""
    with ThreadPoolExecutor(streams) as pool:
        theirs, ours = in_turns(
            lambda: ask([next(rows) for _ in range(streams)], TOKENS),
            lambda: list(pool.map(lambda ids: inside(ids, TOKENS), [next(rows) for _ in range(streams)])),
            ROUNDS,
        )
    what = f"tokens/s, {streams} at once, in process / OpenVINO GenAI int8"
    figure = ratio(f"decode {streams} to OpenVINO", what, theirs, ours, 1.0, at_least=True)
    return _rates(figure, streams * TOKENS)


def prompts(texts: Texts, length: int) -> Iterator[list[int]]:
    """Endless prompts of so many tokens, of which no two begin alike: a number stands first."""
    for number in count(1000):
        ids = [number]
        while len(ids) < length:
            ids += next(texts)[1]
        yield ids[:length]


def against_llama_cpp(client: Client, texts: Texts, file: Path) -> Iterator[Figure]:
    """TOKENS in and out, streamed, REQUESTS of each stream one after another: tokens a second, ours / theirs."""

    def ours(_: int) -> None:
        for _ in range(REQUESTS):
            stream = client.generate(next(texts)[0], stream=True, max_tokens=TOKENS, min_tokens=TOKENS)
            assert list(stream)[-1].num_output_tokens == TOKENS

    for streams in STREAMS:
        with LlamaServer(file, streams, LENGTH, THREADS) as peer:
            yield streamed(peer, ours, texts, streams)


def streamed(peer: LlamaServer, ours: Callable[[int], None], texts: Texts, streams: int) -> Figure:
    """So many streams at once, through ours and through the peer."""

    def theirs(_: int) -> None:
        for _ in range(REQUESTS):
            assert peer.generate(next(texts)[1], TOKENS) == TOKENS

    with ThreadPoolExecutor(streams) as pool:
        every = range(streams)
        over, under = in_turns(lambda: list(pool.map(theirs, every)), lambda: list(pool.map(ours, every)), ROUNDS)
    what = f"tokens/s, {streams} at once, streamed through Triton / llama.cpp's server Q8_0 over HTTP"
    figure = ratio(f"streamed {streams} to llama.cpp", what, over, under, 1.3, at_least=True)
    return _rates(figure, streams * REQUESTS * TOKENS)


def _rates(figure: Figure, tokens: int) -> Figure:
    """Tell the tokens a second of both too."""
    figure.detail["theirs_tokens_per_s"] = tokens / figure.detail["over_s"]
    figure.detail["ours_tokens_per_s"] = tokens / figure.detail["under_s"]
    return figure
