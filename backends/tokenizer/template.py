"""Prompts as text, for a decoder that tokenises by itself: TensorRT-LLM's LLM API, which adds special tokens."""

import numpy as np


def without_doubled_start(prompts, sent):
    """Return the tensor `prompt` BYTES [1, 1] of what a caller `sent`; raise Refusal as `prompts` does.

    The LLM API gives a prompt the tokenizer's own special tokens (`SamplingParams.add_special_tokens`), also one whose
    chat template has written them: what would come twice is left to the tokenizer.
    """
    text, ids = prompts.read(sent)
    if "messages" in sent:
        text = single_start(prompts.tokenizer, text, ids)
    return {"prompt": np.array([[text.encode()]], object)}


def single_start(tokenizer, text, ids):
    """Return `text` without the token that `tokenizer` writes before it and that it begins with itself.

    `ids` are those of `text` without the tokenizer's special tokens. A text that this does not give them for (a
    tokenizer which adds what the template leaves out) stays what it is: no text would.
    """
    start = tokenizer.id_to_token(ids[0])
    rest = text.removeprefix(start)
    if len(rest) < len(text) and tokenizer.encode(rest).ids == ids:
        return rest
    return text
