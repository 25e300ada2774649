import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quality import Parity, batches, misses, read_texts
from pipeline.recipe import EmbedGate

GATE = EmbedGate(max_abs_difference=1e-4, min_cosine=0.999, mean_cosine=0.9999)


@pytest.mark.parametrize(
    ("parity", "words"),
    [
        (Parity(31, 1e-5, 1.0, 1.0), []),
        (Parity(31, 1e-4, 0.999, 0.9999), []),
        (Parity(31, 3e-4, 1.0, 1.0), ["max abs difference 0.0003 is above the limit 0.0001 (3.0 times)"]),
        (Parity(31, 1e-5, 0.9, 1.0), ["min cosine 0.90000 is 0.09900 below the limit 0.999"]),
        (Parity(31, 1e-5, 1.0, 0.99), ["mean cosine 0.99000 is 0.00990 below the limit 0.9999"]),
    ],
)
def test_a_miss_says_by_how_much(parity: Parity, words: list[str]) -> None:
    assert misses(parity, GATE) == words


def test_not_a_number_misses_every_limit() -> None:
    assert len(misses(Parity(31, math.nan, math.nan, math.nan), GATE)) == 3


@given(st.lists(st.text(), max_size=80))
def test_every_text_is_in_one_batch(texts: list[str]) -> None:
    assert sorted(text for batch in batches(texts) for text in batch) == sorted(texts)


def test_the_parity_texts_are_mixed() -> None:
    lengths = [len(text) for text in read_texts()]
    assert min(lengths) < 10
    assert max(lengths) > 900
    assert len({len(batch) for batch in batches(read_texts())}) >= 4
