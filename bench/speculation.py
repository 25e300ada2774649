"""Figures of speculation by prompt lookup: one stream in process, with drafts and without, in turns."""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

from bench.figure import Figure, in_turns, ratio

ROUNDS, REQUESTS, ANSWER = 15, 3, 96
# A passage, and so many of its tokens again: who goes on quotes it.
PASSAGE, AGAIN = 160, 24


def figures(engine: Any, ids: list[int], generate: Callable[[list[int], int], Any]) -> Iterator[Figure]:
    """Take both figures over `engine`, of texts cut from the tokens `ids`; `generate` waits for an answer."""
    places = range(0, len(ids) - PASSAGE, PASSAGE)
    passages = [ids[place : place + PASSAGE] for place in places]
    quoting = [passage + passage[:AGAIN] for passage in passages]
    yield _figure("quotes", "an answer that quotes its prompt", engine, quoting, generate, 1.3)
    yield _figure("own words", "an answer in words of its own", engine, passages, generate, 0.97)


def _figure(
    name: str,
    what: str,
    engine: Any,
    prompts: list[list[int]],
    generate: Callable[[list[int], int], Any],
    target: float,
) -> Figure:
    verified, endless = engine.decoder.verified, {kind: cycle(prompts) for kind in (True, False)}

    def some(drafts: bool) -> None:
        engine.decoder.verified = verified if drafts else 0
        for _ in range(REQUESTS):
            generate(next(endless[drafts]), ANSWER)

    before = engine.drafted_tokens, engine.accepted_tokens
    without, with_drafts = in_turns(lambda: some(False), lambda: some(True), ROUNDS)
    drafted, accepted = engine.drafted_tokens - before[0], engine.accepted_tokens - before[1]
    words = f"tokens/s, 1 stream, {what}, with prompt lookup / without"
    figure = ratio(f"speculation, {name}", words, without, with_drafts, target, at_least=True)
    figure.detail["drafted_tokens"], figure.detail["accepted_tokens"] = drafted, accepted
    return figure
