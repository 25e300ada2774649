"""Bad words and biases: from words and token ids to tokens, and a sentence for every refusal."""

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from yard.checkout import BACKENDS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BACKENDS / "tokenizer")
    from refusal import Refusal
    from token_rules import MAX_BAD_WORDS, TokenRules


def rules() -> TokenRules:
    """A token a letter, 1 to 26; " a" is one, 27; what is none of these has none."""
    letters = {chr(96 + number): number for number in range(1, 27)}
    tokenizer = Tokenizer(models.BPE({"Ġ": 0, **letters, "Ġa": 27}, [("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return TokenRules(tokenizer)


def test_nothing_is_sent_where_nothing_is_asked() -> None:
    assert rules().read({}) == {}
    assert rules().read({"bad_words": [b""], "logit_bias": [b"{}"]}) == {}


@pytest.mark.parametrize(
    ("words", "ids", "ends"),
    [
        ([b"a"], [1, 27], [1, 2]),
        ([b"ab"], [1, 2, 27, 2], [2, 4, -1, -1]),
        ([b" ab"], [27, 2], [2, -1]),
        ([b"b", b"ca"], [2, 0, 2, 3, 1, 0, 3, 1], [1, 3, 5, 8, -1, -1, -1, -1]),
    ],
)
def test_bad_words_come_with_and_without_a_space_before_them(
    words: list[bytes], ids: list[int], ends: list[int]
) -> None:
    tensor = rules().read({"bad_words": words})["bad_words_list"]
    assert (tensor.dtype, tensor.tolist()) == (np.int32, [[ids, ends]])


def test_biases_of_words_and_of_token_ids_add_up() -> None:
    sent = {
        "embedding_bias_words": [b"aab", b" a"],
        "embedding_bias_weights": [1.5, -2.0],
        "logit_bias": [json.dumps({"1": 0.5, "3": -100}).encode()],
    }
    tensor = rules().read(sent)["embedding_bias"]
    assert tensor.dtype == np.float32
    want = {1: 2.0, 2: 1.5, 3: -100.0, 27: -2.0}
    assert {token: tensor[0, token] for token in np.flatnonzero(tensor)} == want


BAD: dict[str, tuple[dict[str, list[Any]], str]] = {
    "too many": ({"bad_words": [b"a"] * (MAX_BAD_WORDS + 1)}, "65 bad words were sent, at most 64 are taken"),
    "too long": ({"bad_words": [b"a", b"b" * 257]}, "bad word 1 has 257 characters, taken are 1 to 256"),
    "no tokens": ({"bad_words": ["é".encode()]}, "bad word 0 has no tokens at all"),
    "not UTF-8": ({"bad_words": [b"\xe9"]}, "bad word 0 is not UTF-8"),
    "uneven": (
        {"embedding_bias_words": [b"a", b"b"], "embedding_bias_weights": [1.0]},
        "2 embedding_bias_words came with 1 embedding_bias_weights; send one for each",
    ),
    "not finite": (
        {"embedding_bias_words": [b"a"], "embedding_bias_weights": [float("nan")]},
        "an embedding bias weight is nan; give a finite number",
    ),
    "not JSON": ({"logit_bias": [b"{"]}, "logit_bias is not JSON: "),
    "a list": ({"logit_bias": [b"[1]"]}, "logit_bias is not a JSON object of at most 1024 token ids"),
    "a word": ({"logit_bias": [b'{"a": 1}']}, "logit_bias names the token 'a'; the vocabulary has the ids 0 to 27"),
    "half a character": ({"logit_bias": [rb'{"\ud800": 1}']}, r"logit_bias names the token '\ud800'"),
    "no such token": ({"logit_bias": [b'{"28": 1}']}, "logit_bias names the token '28'"),
    "negative": ({"logit_bias": [b'{"-1": 1}']}, "logit_bias names the token '-1'"),
    "too much": ({"logit_bias": [b'{"1": 100.5}']}, "logit_bias of token 1 is 100.5; give a number from -100 to 100"),
    "no number": ({"logit_bias": [b'{"1": true}']}, "logit_bias of token 1 is True"),
    "NaN": ({"logit_bias": [b'{"1": NaN}']}, "logit_bias of token 1 is nan"),
}


@pytest.mark.parametrize(("sent", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_refused_is_said(sent: dict[str, list[Any]], words: str) -> None:
    with pytest.raises(Refusal) as refused:
        rules().read(sent)
    assert words in str(refused.value)
    assert str(refused.value).encode()
