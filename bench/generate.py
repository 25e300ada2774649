"""Figures of the generation chain: 64 tokens in and 64 out, greedy.

The in-process side is the same engine, `backends/onnx_generate`, driven in this process without Triton: token ids in,
token ids out, as many requests at once as the server gets. The served side are threads that each read one stream of
the SDK after another.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, pairwise
from pathlib import Path
from threading import Event
from typing import Any

import psutil
from tokenizers import Tokenizer

from bench import peers, speculation
from bench.figure import ROUNDS, Figure, in_turns, ratio
from serving.server import Server
from tritonyard import Client
from yard import checkout

MODEL = "smollm2"
TOKENS = 64
SLOTS, LENGTH = 16, 1024
# More than slots keep: when one comes again, it is computed again.
PROMPTS = 4 * SLOTS
# Streams at once -> the least part of the throughput in process.
STREAMS = {1: 0.90, 4: 0.80, 8: 0.75, 16: 0.70}
REQUESTS = 3
FIRST_TOKENS = 15
# Of chats that begin alike: how many at once, and the tokens of their system prompt and of their own words.
CHATS, SYSTEM, OWN = 8, 500, 16
# A prompt that comes while others run: its tokens, and for how long nothing else comes before it.
LONG, QUIET_S = 1000, 4.0

Prompts = Iterator[tuple[str, list[int]]]


def figures(server: Server, engine: Path, checkpoint: Path, report: Callable[[str], None]) -> Iterator[Figure]:
    """Take every figure over `server`, which serves MODEL alone."""
    yield memory(server)
    prompts = prompts_of(Tokenizer.from_file(str(engine / "tokenizer.json")), PROMPTS)
    endless = cycle(prompts)
    inside = InProcess(engine)
    with Client(server.grpc_url, model=MODEL, timeout=120) as client:
        for streams, target in STREAMS.items():
            report(f"{streams} streams")
            yield throughput(client, inside, prompts, streams, True, target)
        report("8 unstreamed")
        yield throughput(client, inside, prompts, 8, False, 0.95)
        report("time to first token")
        yield first_token(client, inside, endless)
        yield from peers.figures(client, inside.generate, endless, checkpoint, report)
    report("shared system prompt")
    ids = [token for _, each in prompts for token in each]
    yield shared_prefix(inside, ids)
    report("a long prompt beside others")
    yield long_prompt(inside, ids)
    report("speculation")
    yield from speculation.figures(inside.engine, ids, inside.generate)
    inside.close()


def prompts_of(tokenizer: Tokenizer, count: int) -> list[tuple[str, list[int]]]:
    """Return different texts of exactly TOKENS tokens, with their ids."""
    words = (checkout.ROOT / "loadtests" / "texts" / "sentences.txt").read_text().split()
    found = []
    for start in range(0, len(words), 7):
        for end in range(start + TOKENS // 2, start + TOKENS):
            ids = tokenizer.encode(" ".join(words[start:end])).ids
            if len(ids) == TOKENS:
                found.append((" ".join(words[start:end]), ids))
                break
        if len(found) == count:
            return found
    raise AssertionError(f"the shipped sentences give {len(found)} prompts of {TOKENS} tokens, {count} are needed")


class InProcess:
    """The engine of `backends/onnx_generate` in this process."""

    def __init__(self, folder: Path):
        sys.path.append(str(checkout.BACKENDS / "onnx_generate"))
        from decoder import Decoder
        from engine import Engine, Generation
        from request import Settings
        from terms import Terms

        self._generation, self._settings, self._terms = Generation, Settings, Terms
        self.engine = Engine(Decoder(folder, SLOTS, LENGTH), max_queue_size=SLOTS)

    def generate(self, ids: list[int], tokens: int, salt: str = "") -> list[float]:
        """Generate exactly so many tokens; return when each came, in seconds after the call.

        What was computed of a prompt is taken from requests of the same `salt` only.
        """
        begun = time.monotonic()
        generation = self.wait(self.start(ids, tokens, salt))
        assert len(generation.output) == tokens, generation.finish_reason
        return [when - begun for when in generation.token_times]

    def start(self, ids: list[int], tokens: int, salt: str = "") -> Any:
        """Return a Generation of so many tokens that is under way."""
        settings, ended = self._settings(max_tokens=tokens, min_tokens=tokens), Event()
        generation = self._generation(ids, settings, terms=self._terms(cache_salt=salt))
        generation.ended = ended
        generation.on_progress = lambda _: ended.set() if generation.finish_reason else None
        self.engine.submit(generation)
        return generation

    def wait(self, generation: Any, cancel: bool = False) -> Any:
        """Return `generation` at its end, which may be brought about."""
        if cancel:
            self.engine.cancel(generation)
        generation.ended.wait()
        return generation

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()


def throughput(
    client: Client, inside: InProcess, prompts: list[tuple[str, list[int]]], streams: int, stream: bool, target: float
) -> Figure:
    """REQUESTS of each stream, one after another, all streams at once: tokens a second, served / in process.

    Both get the same prompts in the same order: how much of a draft comes true depends on them.
    """
    here_prompts, there_prompts = cycle(prompts), cycle(prompts)

    def local(_: int) -> None:
        for _ in range(REQUESTS):
            inside.generate(next(here_prompts)[1], TOKENS)

    def served(_: int) -> None:
        for _ in range(REQUESTS):
            options: dict[str, Any] = {"max_tokens": TOKENS, "min_tokens": TOKENS}
            answer = client.generate(next(there_prompts)[0], stream=stream, **options)
            last = list(answer)[-1] if stream else answer  # type: ignore[call-overload]
            assert (last.num_input_tokens, last.num_output_tokens) == (TOKENS, TOKENS), last

    with ThreadPoolExecutor(streams) as pool:
        every = range(streams)
        here, there = in_turns(lambda: list(pool.map(local, every)), lambda: list(pool.map(served, every)), ROUNDS)
    kind = "streamed" if stream else "not streamed"
    what = f"tokens/s, {streams} at once, {kind} / in process"
    figure = ratio(f"{kind} {streams}", what, here, there, target, at_least=True)
    tokens = streams * REQUESTS * TOKENS
    figure.detail["in_process_tokens_per_s"] = tokens / figure.detail["over_s"]
    figure.detail["served_tokens_per_s"] = tokens / figure.detail["under_s"]
    return figure


def first_token(client: Client, inside: InProcess, prompts: Prompts) -> Figure:
    """One stream: ms from the call to the first text, above the same in process."""

    def served() -> float:
        begun = time.monotonic()
        stream = iter(client.generate(next(prompts)[0], stream=True, max_tokens=4, min_tokens=4))
        next(stream)
        seconds = time.monotonic() - begun
        list(stream)
        return seconds

    def block(one: Callable[[], float]) -> float:
        return statistics.median(one() for _ in range(FIRST_TOKENS))

    above, local = [], []
    for _ in range(ROUNDS):
        local.append(1e3 * block(lambda: inside.generate(next(prompts)[1], 4)[0]))
        above.append(1e3 * block(served) - local[-1])
    value = statistics.median(above)
    what = f"ms to the first token above in process, {TOKENS} tokens in, 1 stream"
    detail = {"in_process_ms": statistics.median(local)}
    return Figure("first token", what, value, min(above), max(above), "at most 5", value <= 5, detail)


def shared_prefix(inside: InProcess, ids: list[int]) -> Figure:
    """CHATS at once that share a system prompt which was seen before: the mean time to a first token, against chats
    of which each has a salt of its own. The first of all chats with it is told in the detail (`cold_ratio`).
    """
    system, salts = ids[:SYSTEM], count()

    def chats(pool: ThreadPoolExecutor, salt: Callable[[], str]) -> float:
        # Words of their own in every round: only the system prompt was seen before.
        begin = SYSTEM + next(salts) % (len(ids) - SYSTEM - OWN - CHATS)
        prompts = [system + ids[begin + chat : begin + chat + OWN] for chat in range(CHATS)]
        return statistics.mean(pool.map(lambda prompt: inside.generate(prompt, 4, salt())[0], prompts))

    found: dict[str, list[float]] = {"alone": [], "cold": [], "warm": []}
    with ThreadPoolExecutor(CHATS) as pool:
        for turn in range(ROUNDS):
            found["alone"].append(chats(pool, lambda: f"alone {next(salts)}"))
            for kind in ("cold", "warm"):
                found[kind].append(chats(pool, lambda turn=turn: f"shared {turn}"))  # type: ignore[misc]
    what = f"ms to the first token, {CHATS} chats at once with a system prompt of {SYSTEM} tokens / without reuse"
    figure = ratio("shared prefix", what, found["warm"], found["alone"], 0.2, at_least=False)
    figure.detail["cold_ratio"] = statistics.median(found["cold"]) / statistics.median(found["alone"])
    return figure


def long_prompt(inside: InProcess, ids: list[int]) -> Figure:
    """A prompt of LONG tokens beside CHATS running streams: p99 of their inter-token latency until its first token,
    against that before it came.
    """
    alone, beside, took = [], [], []
    for turn in range(ROUNDS):
        streams = [inside.start(ids[TOKENS * each : TOKENS * (each + 1)], LENGTH - TOKENS) for each in range(CHATS)]
        time.sleep(QUIET_S)
        arrived = time.monotonic()
        took.append(inside.generate(ids[:LONG], 4, f"long {turn}")[0])
        times = [inside.wait(stream, cancel=True).token_times for stream in streams]
        alone.append(_p99(_gaps(times, arrived - QUIET_S / 2, arrived)))
        beside.append(_p99(_gaps(times, arrived, arrived + took[-1])))
    what = f"p99 of inter-token latency, {CHATS} streams beside a prompt of {LONG} tokens / without it"
    figure = ratio("long prompt", what, beside, alone, 2.5, at_least=False)
    figure.detail["prompt_first_token_s"] = statistics.median(took)
    return figure


def _gaps(times: list[list[float]], begin: float, end: float) -> list[float]:
    """Return the seconds between neighbouring tokens of each stream, of those that came in the window."""
    return [after - one for each in times for one, after in pairwise(each) if begin < one and after < end]


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


def memory(server: Server) -> Figure:
    """The proportional set size of tritonserver and its stubs, which have answered one request each."""
    stubs = [psutil.Process(pid) for pid in server.stubs()]
    tree = {each.pid: each for stub in stubs for each in (stub, stub.parent())}
    detail = {f"{each.name()} {pid}": each.memory_full_info().pss / 1e6 for pid, each in tree.items()}
    value = sum(detail.values()) / 1e3
    what = f"GB, PSS of a server of {MODEL} alone at rest, {SLOTS} slots of {LENGTH} tokens"
    return Figure("memory", what, value, value, value, "under 1.2", value < 1.2, detail)
