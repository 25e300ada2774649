"""What a generation is asked for and what comes back: settings -> Generate, an answer -> Delta. Pure.

The tensor names are those of TensorRT-LLM's ensemble (1.2.1, `all_models/inflight_batcher_llm`), and beyond them
`messages` and `finish_reason`.
"""

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict, TypeVar, get_type_hints

import numpy as np

from tritonyard._errors import InvalidRequest
from tritonyard._flows import utf8
from tritonyard._transport import Answer, Generate, Refused, Values

Method = TypeVar("Method")

# A type, and the datatype in which Triton takes it.
Int32 = Annotated[int | None, "INT32"]
Uint64 = Annotated[int | None, "UINT64"]
Float32 = Annotated[float | None, "FP32"]


class Options(TypedDict, total=False):
    """What may be said with a prompt or messages; None leaves it to the client, or to the server.

    `model` and `timeout` (seconds, for the whole answer) replace the client's own. `max_tokens` and `min_tokens`
    count new tokens. The answer ends before the first of the texts in `stop`. Sampling is greedy unless
    `temperature`, `top_k` (of so many likeliest tokens) or `top_p` (of the likeliest that together have this
    probability) is given; `temperature=0` is greedy. The same `seed` gives the same answer. `repetition_penalty` (none
    at 1), `presence_penalty` and `frequency_penalty` (none at 0) make less likely what has been said. `idempotent`
    allows it to be written twice, where the connection breaks before the first answer.
    """

    model: str | None
    timeout: float | None
    idempotent: bool | None
    max_tokens: Int32
    min_tokens: Int32
    stop: str | Sequence[str] | None
    temperature: Float32
    top_k: Int32
    top_p: Float32
    repetition_penalty: Float32
    presence_penalty: Float32
    frequency_penalty: Float32
    seed: Uint64


# Input -> its datatype; the settings have the names of their inputs.
DATATYPES = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Options, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}


@dataclass(frozen=True)
class Delta:
    """What an answer grew by: `text` is new text, never the text so far.

    `num_input_tokens` and `num_output_tokens` count all that was read and written so far; None where the server does
    not count. `finish_reason` is None until the last one: then stop, length or cancelled.
    """

    text: str
    finish_reason: str | None
    num_input_tokens: int | None
    num_output_tokens: int | None


@dataclass(frozen=True)
class Usage:
    """How many tokens were read, `input_tokens`, and written, `output_tokens`; None where the server does not count."""

    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class Timing:
    """How long an answer took, in seconds by the caller's clock, from the sending of the request.

    `first_token` is when the first text came, `total` when the latest delta did. `between_tokens` is the mean between
    the first token and the latest. Each is None as long as there is none: a server that does not count tokens leaves
    the mean unknown, and an answer that was not streamed has but its total.
    """

    first_token: float | None = None
    total: float | None = None
    between_tokens: float | None = None


@dataclass(frozen=True)
class Generation:
    """A whole answer, its `text`. `finish_reason` is stop (its own end, or a text in `stop`), length or cancelled.

    `num_input_tokens` and `num_output_tokens` are None where the server does not count. `timing` has a total alone:
    nothing of the answer was seen before its end.
    """

    text: str
    finish_reason: str
    num_input_tokens: int | None
    num_output_tokens: int | None
    # Two answers that say the same are equal, however long they took.
    timing: Timing = field(default=Timing(), compare=False)

    @property
    def usage(self) -> Usage:
        """How many tokens were read and written, as a stream tells it."""
        return Usage(self.num_input_tokens, self.num_output_tokens)


def spelled_out(method: Method) -> Method:
    """Let help() show the keywords of Options one by one, where it would show `**options`."""
    signature = inspect.signature(method)  # type: ignore[arg-type]
    *own, _ = signature.parameters.values()
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in get_type_hints(Options).items()
    ]
    method.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
    return method


def prompting(model: str, prompt: object, stream: bool, options: Options) -> Generate:
    """Ask for what follows `prompt`; raise InvalidRequest where an argument cannot be sent."""
    utf8(prompt, "the prompt", model)
    return _generate(model, {"text_input": Values("BYTES", (str(prompt),))}, stream, options)


def chatting(model: str, messages: object, stream: bool, options: Options) -> Generate:
    """Ask for the next message of a conversation; raise InvalidRequest where an argument cannot be sent."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        fact = f"messages is {type(messages).__name__}; pass a list of {{'role': ..., 'content': ...}}"
        raise InvalidRequest(fact, model=model)
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            fact = f"message {index} is {type(message).__name__}; pass a mapping with 'role' and 'content'"
            raise InvalidRequest(fact, model=model)
        for key, text in message.items():
            utf8(key, f"a key of message {index}", model)
            utf8(text, f"the {key} of message {index}", model)
    text = json.dumps([dict(message) for message in messages], ensure_ascii=False)
    return _generate(model, {"messages": Values("BYTES", (text,))}, stream, options)


def _generate(model: str, inputs: dict[str, Values], stream: bool, options: Options) -> Generate:
    if unknown := options.keys() - Options.__annotations__.keys():
        raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
    if stop := _stop_words(options.get("stop"), model):
        inputs["stop_words"] = Values("BYTES", stop)
    if stream:
        inputs["stream"] = Values("BOOL", (True,))
    for name, datatype in DATATYPES.items():
        setting = options.get(name)
        if setting is not None:
            inputs[name] = Values(datatype, (_number(name, datatype, setting, model),))
    return Generate(model, inputs, stream, bool(options.get("idempotent")))


def _stop_words(stop: object, model: str) -> tuple[str, ...]:
    words = (stop,) if isinstance(stop, str) else () if stop is None else stop
    if isinstance(words, bytes | bytearray) or not isinstance(words, Iterable):
        raise InvalidRequest(f"stop is {type(stop).__name__}; pass a str, or a list of them", model=model)
    found = tuple(words)
    for index, word in enumerate(found):
        utf8(word, f"stop {index}", model)
    return found


def _number(name: str, datatype: str, setting: Any, model: str) -> int | float:
    """Return a setting as Python's own number; raise InvalidRequest where `datatype` cannot hold it."""
    if datatype == "FP32":
        kind, wanted, most = int | float | np.integer | np.floating, "a finite number", float(np.finfo(np.float32).max)
        least = -most
    else:
        limits = np.iinfo(datatype.lower())
        kind, least, most = int | np.integer, limits.min, limits.max
        wanted = f"a whole number from {least} to {most}"
    if isinstance(setting, bool) or not isinstance(setting, kind) or not least <= setting <= most:
        raise InvalidRequest(f"{name} {setting!r} is not {wanted}", model=model)
    return float(setting) if datatype == "FP32" else int(setting)


def delta(answer: Answer) -> Delta:
    """Read one answer; raise Refused where it is not a generation's, or says that the server broke off."""
    try:
        text, reason = answer["text_output"], answer["finish_reason"]
        # TensorRT-LLM's LLM API counts nothing.
        read, written = answer.get("num_input_tokens"), answer.get("num_output_tokens")
    except KeyError as error:
        words = f"the answer has no {error}, it has {', '.join(answer)}; the model does not generate text"
        raise Refused("INTERNAL", words) from None
    counts = all(isinstance(count, int | None) for count in (read, written))
    if not (isinstance(text, str) and isinstance(reason, str) and counts):
        raise Refused("INTERNAL", f"the answer is not a generation's: {str(answer)[:200]}")
    if reason == "error":
        raise Refused("INTERNAL", f"the model broke off after {written} tokens")
    return Delta(text, reason or None, read, written)


def unfinished() -> Refused:
    """Return what to raise where the answers end before one of them says why."""
    return Refused("INTERNAL", "the answer ended without a finish_reason")
