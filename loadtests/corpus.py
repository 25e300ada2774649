"""Texts for requests: shipped sentences as they are, or words of them joined to a wanted length."""

import functools
import math
import random
from collections.abc import Iterator
from pathlib import Path

from loadtests.scenario import Lengths, Words

SENTENCES = Path(__file__).parent / "texts" / "sentences.txt"


@functools.cache
def sentences() -> tuple[str, ...]:
    """Return the shipped English sentences, one a line of the file, 5 to 100 words each."""
    return tuple(SENTENCES.read_text(encoding="utf-8").splitlines())


def requests(texts: int, words: Words, seed: int) -> Iterator[list[str]]:
    """Yield the texts of request after request, `texts` each, without end; equal seeds give equal texts."""
    draw = random.Random(seed)
    while True:
        yield [_text(words, draw) for _ in range(texts)]


def prompts(words: Words, output_tokens: Lengths, seed: int) -> Iterator[tuple[str, int]]:
    """Yield (prompt, wanted output tokens) of request after request, without end; equal seeds give equal ones."""
    draw = random.Random(seed)
    while True:
        yield _text(words, draw), draw.randint(output_tokens.min, output_tokens.max)


def _text(words: Words, draw: random.Random) -> str:
    if words.distribution == "sentences":
        return draw.choice(sentences())
    wanted = _length(words, draw)
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
