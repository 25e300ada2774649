"""What a caller forbids or favours in words or token ids -> the same in tokens, as TensorRT-LLM's engine takes it.

The inputs are those of TensorRT-LLM's ensemble (1.2.1, `all_models/inflight_batcher_llm`), and `logit_bias`, as
OpenAI's API has it. A bad word is forbidden with and without a space before it (as in vLLM): the answer does not say it
by the tokens that the tokenizer writes it with, but may by others that spell the same. A bias is for the tokens of the
word as it stands.
"""

import json
import math

import numpy as np
from refusal import Refusal, utf8

MAX_BAD_WORDS = 64
MAX_WORD = 256
MAX_BIASES = 1024
# OpenAI's limit; so far off that a token is as good as forbidden, or forced.
MOST = 100.0


class TokenRules:
    """Reads the rules of a request for `tokenizer` (Hugging Face tokenizers, without padding and truncation)."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def read(self, sent):
        """Return the tensors for what `sent` (input name -> list of elements) asks for, none of it where it does not.

        `bad_words_list` INT32 [1, 2, n] is TensorRT-LLM's flat form: the ids of all words in a row, and where each word
        ends, padded with -1. `embedding_bias` FP32 [1, n] are biases by token id. Raises Refusal.
        """
        rules = {}
        # NVIDIA's examples send an empty word for none.
        if words := [word for word in sent.get("bad_words", []) if word]:
            rules["bad_words_list"] = flat([ids for word in self._words(words, "bad word") for ids in word])
        if biases := self._biases(sent):
            dense = np.zeros((1, max(biases) + 1), np.float32)
            dense[0, [*biases]] = [*biases.values()]
            rules["embedding_bias"] = dense
        return rules

    def _words(self, words, name):
        """Return the token sequences of each word: as it stands, and behind a space where that is another one."""
        if len(words) > MAX_BAD_WORDS:
            raise Refusal(f"{len(words)} {name}s were sent, at most {MAX_BAD_WORDS} are taken")
        found = []
        for index, word in enumerate(words):
            text = utf8(word, f"{name} {index}")
            if not 1 <= len(text) <= MAX_WORD:
                raise Refusal(f"{name} {index} has {len(text)} characters, taken are 1 to {MAX_WORD}")
            spelled = [self._ids(text), self._ids(f" {text.lstrip()}")]
            if not spelled[0]:
                raise Refusal(f"{name} {index} has no tokens at all; send some text")
            found.append(list(dict.fromkeys(spelled)))
        return found

    def _ids(self, text):
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _biases(self, sent):
        """Return token id -> bias of `logit_bias` and of each token of `embedding_bias_words`; they add up."""
        words, weights = sent.get("embedding_bias_words", []), sent.get("embedding_bias_weights", [])
        if len(words) != len(weights):
            raise Refusal(
                f"{len(words)} embedding_bias_words came with {len(weights)} embedding_bias_weights; send one for each"
            )
        biases = read_logit_bias(sent.get("logit_bias", [b"{}"])[0], self._tokenizer.get_vocab_size())
        for (ids, *_), weight in zip(self._words(words, "embedding bias word"), weights, strict=True):
            if not math.isfinite(weight):
                raise Refusal(f"an embedding bias weight is {weight:g}; give a finite number")
            for token in set(ids):
                biases[token] = biases.get(token, 0.0) + weight
        return biases


def read_logit_bias(value, vocabulary):
    """Return token id -> bias of the JSON object `value`, {"1234": -100}; raise Refusal with key and fact."""
    text = utf8(value, "logit_bias")
    try:
        biases = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"logit_bias is not JSON: {error}") from None
    if not isinstance(biases, dict) or len(biases) > MAX_BIASES:
        raise Refusal(f"logit_bias is not a JSON object of at most {MAX_BIASES} token ids, each with its bias")
    found = {}
    for key, bias in biases.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocabulary):
            raise Refusal(f"logit_bias names the token '{key[:40]}'; the vocabulary has the ids 0 to {vocabulary - 1}")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -MOST <= bias <= MOST:
            raise Refusal(f"logit_bias of token {key} is {str(bias)[:40]}; give a number from -{MOST:g} to {MOST:g}")
        found[int(key)] = float(bias)
    return found


def flat(words):
    """Return token sequences in TensorRT-LLM's flat form, INT32 [1, 2, n]."""
    ids = [token for word in words for token in word]
    ends = np.cumsum([len(word) for word in words]).tolist()
    return np.array([[ids, ends + [-1] * (len(ids) - len(ends))]], np.int32)
