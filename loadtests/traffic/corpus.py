"""What each request asks for: texts as they are, or words of the shipped ones joined to a wanted length."""

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from loadtests.traffic.arrivals import Trace
from loadtests.traffic.request import EmbedRequest, Lengths, Request, Words
from loadtests.traffic.scenario import Scenario
from loadtests.traffic.texts import read_texts, sentences
from loadtests.traffic.trace import TraceRequest

# A trace tells tokens, texts are made of words: of the shipped sentences SmolLM2's tokenizer makes so many.
TOKENS_PER_WORD = 1.13


@dataclass(frozen=True)
class Call:
    """What one request asks for: `texts` to embed, or one prompt and how many tokens its answer must have.

    `kind` is the request's name in a mix.
    """

    request: Request
    texts: list[str]
    output_tokens: int = 0
    kind: str | None = None


def calls(scenario: Scenario) -> Iterator[Call]:
    """Yield what request after request of `scenario` asks for; equal seeds give equal calls.

    Ends with a trace, else never.
    """
    seed, shares = scenario.arrivals.seed, scenario.shares
    if isinstance(scenario.arrivals, Trace):
        yield from recorded(shares[0].request, scenario.arrivals.requests(), seed)
        return
    kinds = [
        drawn(share.request, seed + place, share.name if len(shares) > 1 else None)
        for place, share in enumerate(shares)
    ]
    draw, weights = random.Random(seed), [share.weight for share in shares]
    while True:
        (kind,) = draw.choices(kinds, weights)
        yield next(kind)


def drawn(request: Request, seed: int, kind: str | None = None) -> Iterator[Call]:
    """Yield calls of one `request` without end, their lengths drawn from its distributions."""
    draw = random.Random(seed)
    while True:
        if isinstance(request, EmbedRequest):
            yield Call(request, [_text(request.words, draw) for _ in range(request.texts)], kind=kind)
        else:
            assert request.output_tokens
            yield Call(request, [_text(request.prompt, draw)], _within(request.output_tokens, draw), kind)


def recorded(request: Request, rows: Iterable[TraceRequest], seed: int) -> Iterator[Call]:
    """Yield a call of `request` for each of a trace's `rows`, with prompt and answer of its lengths.

    The prompt has as many words as its tokens are usually made of: near the trace's length, not at it.
    """
    draw = random.Random(seed)
    for row in rows:
        yield Call(request, [_words(max(round(row.tokens_in / TOKENS_PER_WORD), 1), draw)], row.tokens_out)


def _within(lengths: Lengths, draw: random.Random) -> int:
    return draw.randint(lengths.min, lengths.max)


def _text(words: Words, draw: random.Random) -> str:
    if words.distribution == "sentences":
        return draw.choice(sentences())
    if words.file is not None:
        return draw.choice(read_texts(Path(words.file)))
    return _words(_length(words, draw), draw)


def _words(wanted: int, draw: random.Random) -> str:
    text: list[str] = []
    while len(text) < wanted:
        text += draw.choice(sentences()).split()
    return " ".join(text[:wanted])


def _length(words: Words, draw: random.Random) -> int:
    """The number of words of one text; the scenario has checked that its parameters are there."""
    assert words.min
    assert words.max
    if words.distribution == "uniform":
        return draw.randint(words.min, words.max)
    assert words.median
    assert words.sigma
    length = round(draw.lognormvariate(math.log(words.median), words.sigma))
    return min(max(length, words.min), words.max)
