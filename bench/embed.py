"""Figures of the embedding chain.

The in-process side is the same engine and the same tokenizer, called in this process the plain way: ONNX Runtime with
its own defaults, texts in their given order, each batch padded to its longest.
"""

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.figure import ROUNDS, Figure, in_turns, ratio
from pipeline import onnx_encoder
from serving.server import Server
from tritonyard import Client
from yard import checkout

MODEL = "minilm"
CALLERS = 32
BLOCK = 10


def figures(server: Server, engine: Path, checkpoint: Path, report: Callable[[str], None]) -> Iterator[Figure]:
    """Take every figure over `server`, which serves MODEL alone."""
    inside, texts = InProcess(engine), mixed_texts(512)
    with Client(server.grpc_url, model=MODEL) as client:
        for name, take in {
            "32 callers": lambda: many_callers(client, inside, texts[:256]),
            "batches of 32": lambda: batches_of_32(client, inside, texts[:256]),
            "one caller": lambda: one_caller(client, inside, texts[:12]),
            "sentence-transformers": lambda: sentence_transformers(client, checkpoint, texts),
        }.items():
            report(name)
            yield take()


def mixed_texts(count: int, seed: int = 4) -> list[str]:
    """Return texts of 4 to 90 words, about 5 to 120 tokens, evenly mixed: real words in random order."""
    words = (checkout.ROOT / "loadtests" / "texts" / "sentences.txt").read_text().split()
    dice = random.Random(seed)
    return [" ".join(dice.choices(words, k=dice.randint(4, 90))) for _ in range(count)]


class InProcess:
    """The engine and its tokenizer in this process."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        self.session = onnx_encoder.open_session(folder / onnx_encoder.MODEL)
        self.tokenizer = Tokenizer.from_file(str(folder / onnx_encoder.TOKENIZER))
        self.tokenizer.enable_padding()
        self.tokenizer.no_truncation()

    def embed(self, texts: Sequence[str]) -> "np.ndarray[Any, Any]":
        """Embed one batch: tokenise, run, mean-pool, normalise."""
        encodings = self.tokenizer.encode_batch_fast(list(texts))
        mask = np.array([each.attention_mask for each in encodings], np.int64)
        feed = {
            "input_ids": np.array([each.ids for each in encodings], np.int64),
            "attention_mask": mask,
            "token_type_ids": np.array([each.type_ids for each in encodings], np.int64),
        }
        hidden = self.session.run(None, feed)[0]
        pooled = np.einsum("bs,bsh->bh", mask.astype(np.float32), hidden) / mask.sum(axis=1, keepdims=True)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def many_callers(client: Client, inside: InProcess, texts: list[str]) -> Figure:
    """Requests of one sentence from CALLERS callers, against batches of 32 in process."""

    def local() -> None:
        for start in range(0, len(texts), 32):
            inside.embed(texts[start : start + 32])

    with ThreadPoolExecutor(CALLERS) as pool:

        def remote() -> None:
            list(pool.map(lambda text: client.embed([text]), texts))

        here, there = in_turns(local, remote, ROUNDS)
    what = f"throughput, 1 sentence from {CALLERS} callers / in process in batches of 32"
    return ratio("callers", what, here, there, 0.70, at_least=True)


def batches_of_32(client: Client, inside: InProcess, texts: list[str]) -> Figure:
    """Raw requests of 32 sentences, one after another, against the same 32 in process."""
    from tritonclient.grpc import InferenceServerClient

    batches = [texts[start : start + 32] for start in range(0, len(texts), 32)]
    with InferenceServerClient(client_address(client)) as raw:
        here, there = in_turns(
            lambda: [inside.embed(batch) for batch in batches],
            lambda: [by_hand(raw, batch) for batch in batches],
            ROUNDS,
        )
    what = "throughput, requests of 32 sentences / the same 32 in process"
    return ratio("batches", what, here, there, 0.90, at_least=True)


def client_address(client: Client) -> str:
    """Return host:port of the server that `client` calls."""
    return client.url.removeprefix("grpc://")


def by_hand(raw: Any, texts: Sequence[str]) -> "np.ndarray[Any, Any]":
    """Embed with tritonclient alone, as its documentation shows it."""
    from tritonclient.grpc import InferInput, InferRequestedOutput

    tensor = InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    result: np.ndarray[Any, Any] = raw.infer(MODEL, [tensor], outputs=[InferRequestedOutput("embedding")]).as_numpy(
        "embedding"
    )
    return result


def one_caller(client: Client, inside: InProcess, texts: list[str]) -> Figure:
    """One sentence, one caller: milliseconds above the in-process time of the same sentence."""
    above, local, remote = [], [], []
    for text in texts:
        # In blocks, and not call by call: two engines that take turns throw each other's weights out of the cache.
        here, there = in_turns(
            lambda text=text: block(lambda: inside.embed([text])),
            lambda text=text: block(lambda: client.embed([text])),
            5,
        )
        local.append(statistics.median(here) / BLOCK)
        remote.append(statistics.median(there) / BLOCK)
        above.append(1e3 * (remote[-1] - local[-1]))
    value = statistics.median(above)
    detail = {"in_process_ms": 1e3 * statistics.median(local), "served_ms": 1e3 * statistics.median(remote)}
    what = f"ms above in process, one sentence, one caller ({len(texts)} sentences)"
    return Figure("one", what, value, min(above), max(above), "at most 2.5", value <= 2.5, detail)


def block(call: Callable[[], Any]) -> None:
    """Call BLOCK times in a row."""
    for _ in range(BLOCK):
        call()


def sentence_transformers(client: Client, folder: Path, texts: list[str]) -> Figure:
    """`embed` of many mixed texts against sentence-transformers, float32 both."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(folder), device="cpu")
    have, want = client.embed(texts), peer.encode(texts)
    assert np.abs(have - want).max() < 1e-4, "the two must compute the same"
    here, there = in_turns(lambda: client.embed(texts), lambda: peer.encode(texts), ROUNDS)
    what = f"time of embed, {len(texts)} mixed texts / sentence-transformers"
    return ratio("peer", what, here, there, 0.75, at_least=False)
