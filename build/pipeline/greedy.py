"""The plainest loop over an ONNX decoder: rows in lock-step, greedy. What tests and serving are held against."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.integer_graphs import graphs_here
from pipeline.onnx_decoder import DECODER, FLOATS
from pipeline.onnx_encoder import open_session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class GreedyDecoder:
    """`rows` rows of at most `length` tokens over the engine in `folder`.

    Key-value buffers [rows, heads, length, head size], FP32 or FP16 as the engine has them, are past and present at
    once. All rows are equally long, so one number says what each has cached. Prompts go through the engine's prefill
    graph where it has one that this CPU is for.
    """

    def __init__(self, folder: Path, rows: int, length: int):
        import numpy as np

        facts = json.loads((folder / DECODER).read_text())
        self.rows, self.length = rows, length
        sessions = [open_session(folder / name) for name in graphs_here(folder)]
        inputs = {each.name: each for each in sessions[0].get_inputs()}
        kinds = {each.name: each.type for each in sessions[0].get_outputs()}
        self._positions = "position_ids" in inputs
        self._logits = np.empty((rows, 1, facts["vocab_size"]), FLOATS[kinds["logits"]])
        self._buffers = {
            name: np.zeros((rows, each.shape[1], length, facts["head_size"]), FLOATS[each.type])
            for name, each in inputs.items()
            if name.startswith("past_key_values.")
        }
        self._decode, *others = [(session, self._bound(session)) for session in sessions]
        self._prefill = others[0] if others else self._decode

    def _bound(self, session: Any) -> Any:
        """The buffers and logits, bound to `session` once."""
        binding = session.io_binding()
        for name, buffer in self._buffers.items():
            at = ("cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)
            binding.bind_input(name, *at)
            binding.bind_output(name.replace("past_key_values", "present"), *at)
        logits = self._logits
        binding.bind_output("logits", "cpu", 0, logits.dtype.type, logits.shape, logits.ctypes.data)
        return binding

    def feed(self, ids: "NDArray[np.int64]", cached: int, prompt: bool = False) -> "NDArray[np.float32]":
        """Run `ids` INT64 [rows, s] behind `cached` tokens; return the last position's logits FP32 [rows, V].

        `prompt` says which graph they go through. The result may be a view that the next call overwrites.
        """
        import numpy as np

        total = cached + ids.shape[1]
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.ascontiguousarray(ids, np.int64),
            "attention_mask": np.ones((self.rows, total), np.int64),
        }
        if self._positions:
            feeds["position_ids"] = np.tile(np.arange(cached, total, dtype=np.int64), (self.rows, 1))
        session, binding = self._prefill if prompt else self._decode
        for name, value in feeds.items():
            binding.bind_input(name, "cpu", 0, np.int64, value.shape, value.ctypes.data)
        session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = self._logits[:, 0].astype(np.float32, copy=False)
        return logits

    def teacher_forced(self, texts: Sequence[Sequence[int]], prompt: bool = False) -> Iterator["NDArray[np.float32]"]:
        """Feed `texts`, one a row, token by token; yield the logits FP32 [rows, V] behind each position.

        A text that ends early is fed token 0 on: its rows are then without meaning.
        """
        import numpy as np

        ids = np.zeros((self.rows, max(map(len, texts))), np.int64)
        for row, text in zip(ids, texts, strict=False):
            row[: len(text)] = text
        for position in range(ids.shape[1]):
            yield self.feed(ids[:, position : position + 1], position, prompt)

    def answering(self, prompt: Sequence[int], answer: Sequence[int]) -> Iterator["NDArray[np.float32]"]:
        """Feed `prompt` at once and `answer` token by token, on all rows; yield the logits FP32 [V] before each token.

        A view as above.
        """
        import numpy as np

        ids = np.tile(np.array([*prompt, *answer], np.int64), (self.rows, 1))
        yield self.feed(ids[:, : len(prompt)], 0, prompt=True)[0]
        for position in range(len(prompt), ids.shape[1] - 1):
            yield self.feed(ids[:, position : position + 1], position)[0]

    def generate_greedy(self, ids: Sequence[int], max_tokens: int, end_ids: Collection[int]) -> list[int]:
        """Continue the prompt `ids` on the first row by at most `max_tokens` tokens; the end token is left out."""
        import numpy as np

        fed = np.tile(np.array(ids, np.int64), (self.rows, 1))
        cached = 0
        answer: list[int] = []
        while len(answer) < max_tokens:
            token = int(self.feed(fed, cached, prompt=not cached)[0].argmax())
            if token in end_ids:
                break
            answer.append(token)
            cached += fed.shape[1]
            fed = np.full((self.rows, 1), token, np.int64)
        return answer
