"""Prompts for TensorRT-LLM's engine: what it must be told of the end, and who remembers the stream meanwhile.

NVIDIA's C++ backend cannot echo a context (TensorRT-LLM 1.2.1, `triton_backend/inflight_batcher_llm`). So the
detokenizer is told of a request before the engine is, and knows its tokens again by the request's id.
"""

import numpy as np
from refusal import Refusal


class KeyedPrompts:
    """Makes the engine's inputs of what a caller sends.

    `end_ids` and `pad_id` are the checkpoint's; `open_stream(request_id, context)` tells the detokenizer, and raises
    Refusal where it does not take the stream.
    """

    def __init__(self, prompts, end_ids, pad_id, open_stream):
        self._prompts, self._open_stream = prompts, open_stream
        self._end_ids, self._pad_id = end_ids, pad_id

    def make(self, sent, request_id):
        """Return the tensors of one request by the engine's names of them, but for `count_tokens`.

        INT32 `input_ids` [1, n], `stop_words_list` [1, 2, n] where there is more than one end; [1, 1] each: INT32
        `input_lengths`, `request_output_len`, `end_id`, `pad_id`, BOOL `streaming`, `count_tokens`.

        Raises Refusal.
        """
        prompt = self._prompts.make(sent)
        limit = answer_limit(sent.get("max_tokens", [None])[0], len(prompt.ids), self._prompts.max_tokens)
        # A negative end_id is none, as TensorRT-LLM has it.
        end_ids = [id for id in sent.get("end_id", self._end_ids) if id >= 0]
        if request_id:
            self._open_stream(request_id, prompt.context(max_tokens=limit, end_ids=end_ids))
        elif prompt.streaming:
            raise Refusal(
                "the request streams, or has stop_words, and has no request id: TensorRT-LLM's engine cannot echo "
                "whose tokens it sends, so they are told apart by the id; send one that is unique"
            )
        first, *more = end_ids or [-1]
        scalars = {
            "input_lengths": len(prompt.ids),
            "request_output_len": limit,
            "end_id": first,
            "pad_id": sent.get("pad_id", [self._pad_id])[0],
        }
        return {
            "input_ids": np.array([prompt.ids], np.int32),
            **{name: np.array([[value]], np.int32) for name, value in scalars.items()},
            **({"stop_words_list": one_token_words(more)} if more else {}),
            "streaming": np.array([[prompt.streaming]]),
            # The detokenizer knows it of a stream: a tensor less is a tenth of a millisecond less a token.
            "count_tokens": np.array([[not request_id]]),
        }


def answer_limit(asked, prompt, longest):
    """Return how many tokens the answer may have: `asked`, or what a `prompt` of so many tokens leaves of `longest`.

    Raises Refusal, in the words of `onnx_generate`, where the prompt leaves no room for what is asked.
    """
    room = longest - prompt
    if asked is not None and asked < 1:
        raise Refusal(f"max_tokens is {asked}; give 1 or more")
    if (asked or 1) > room:
        raise Refusal(
            f"max_tokens is {asked}, but a prompt of {prompt} tokens leaves room for {room} of the {longest} that a "
            "slot holds; lower it, or leave it out"
        )
    return asked or room


def one_token_words(ids):
    """Return `ids` as words of one token in TensorRT-LLM's flat form, INT32 [1, 2, n]: the tokens of all words, and
    where each word ends.
    """
    return np.array([[ids, range(1, len(ids) + 1)]], np.int32)
