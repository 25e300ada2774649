"""Prompts for a decoder that echoes, with every token, what the detokenizer must know of the stream."""

import uuid

import numpy as np


def echoed(prompt):
    """Return the tensors of `prompt` for a decoder that echoes the stream's context with every token.

    `input_ids` INT32 [1, n], and [1, 1] each `input_lengths` INT32, `streaming` BOOL, `stream_context` BYTES: that of
    `prompt.Prompt.context` with a unique "id".
    """
    return {
        "input_ids": np.array([prompt.ids], np.int32),
        "input_lengths": np.array([[len(prompt.ids)]], np.int32),
        "streaming": np.array([[prompt.streaming]]),
        "stream_context": np.array([[prompt.context(id=uuid.uuid4().hex)]], object),
    }
