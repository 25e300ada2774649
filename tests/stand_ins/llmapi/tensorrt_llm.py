"""Stands in for TensorRT-LLM's LLM API, which needs a GPU, under our real backend `llmapi`: `LLM`, `SamplingParams`.

Signatures and behaviour are those of TensorRT-LLM 1.2 (`tensorrt_llm/llmapi/llm.py`, `sampling_params.py`,
`executor/result.py`). Its "model" says the prompt again, a character a token, and then ends. One setting means
something else here, because tests need it: `seed` is the pause in milliseconds before each token.
"""

import asyncio
import dataclasses
import threading
from pathlib import Path


@dataclasses.dataclass(slots=True, kw_only=True)
class SamplingParams:
    max_tokens: int | None = 32
    best_of: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | None = None

    def __post_init__(self):
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")


@dataclasses.dataclass
class CompletionOutput:
    text: str = ""
    token_ids: list[int] = dataclasses.field(default_factory=list)
    finish_reason: str | None = None
    _last_text_len: int = 0

    @property
    def text_diff(self):
        return self.text[self._last_text_len :]


class RequestOutput:
    """What `generate_async` returns: it yields itself, at every token or at the end."""

    def __init__(self, prompt, sampling, streaming):
        self.outputs, self.finished = [CompletionOutput()], False
        self.prompt_token_ids = [ord(letter) for letter in prompt]
        self._prompt, self._sampling, self._streaming = prompt, sampling, streaming
        self._aborted = threading.Event()

    def abort(self):
        print(f"aborted after {len(self.outputs[0].text)} tokens", flush=True)  # for the test, in the server's log
        self._aborted.set()

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.finished:
            raise StopAsyncIteration
        output = self.outputs[0]
        output._last_text_len = len(output.text)
        while not self.finished:
            await self._step(output)
            if self._streaming:
                break
        return self

    async def _step(self, output):
        await asyncio.sleep((self._sampling.seed or 0) / 1000)
        if self._prompt == "break" and output.text:
            raise RuntimeError("the executor broke")
        if self._aborted.is_set():
            output.finish_reason = "cancelled"
        elif len(output.text) == len(self._prompt):
            output.finish_reason = "stop"
        else:
            output.token_ids.append(ord(self._prompt[len(output.text)]))
            output.text += self._prompt[len(output.text)]
            if len(output.text) == self._sampling.max_tokens:
                output.finish_reason = "length"
        self.finished = output.finish_reason is not None


class LLM:
    def __init__(self, model, tokenizer=None, **arguments):
        if not Path(model).is_dir():
            raise ValueError(f"no checkpoint in {model}")
        self.arguments = arguments

    def generate_async(self, inputs, sampling_params=None, lora_request=None, streaming=False):
        asyncio.get_running_loop()  # as there: results are awaited where they were asked for
        return RequestOutput(inputs, sampling_params, streaming)

    def shutdown(self):
        pass
