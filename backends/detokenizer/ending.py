"""The end of an answer, where the decoder does not say that it has come. Pure."""

import itertools


class Ending:
    """Finds the end in what TensorRT-LLM's engine sends of one answer.

    `max_tokens` is what the answer may have at most, `end_ids` are the ids that end it. Of these the engine takes the
    first as its `end_id`, and does not send it: then its last response is empty, as it is after a `stop`. The others
    are stop words of one token, which it sends (TensorRT-LLM 1.2.1, `cpp/tensorrt_llm/kernels/stopCriteriaKernels.cu`).
    """

    def __init__(self, max_tokens, end_ids):
        self._left, self._end_ids = max_tokens, frozenset(end_ids)

    def read(self, ids, is_last):
        """Return those of the newly sent `ids` that belong to the answer, and its finish reason, "" until the end.

        An engine that drafts tokens may send its last ones and find `end_id` behind them in one step: only `is_last`
        tells.
        """
        shown = list(itertools.takewhile(lambda id: id not in self._end_ids, ids))
        self._left -= len(shown)
        if not ids or len(shown) < len(ids):
            return shown, "stop"
        if self._left <= 0:
            return shown, "length"
        return shown, "stop" if is_last else ""
