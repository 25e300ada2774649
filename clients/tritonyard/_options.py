"""What a generation is asked for: a prompt or messages, and options -> Generate. Pure.

The inputs are those of TensorRT-LLM's ensemble (1.2.1, `all_models/inflight_batcher_llm`), and beyond them `messages`,
`min_p`, `logit_bias` and `top_logprobs`; what schedules a request goes beside them, as parameters of the request.
"""

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypedDict, TypeVar, get_type_hints

import numpy as np

from tritonyard._errors import InvalidRequest
from tritonyard._flows import utf8
from tritonyard._transport import Generate, Parameter, Values

Method = TypeVar("Method")

# A type, and the datatype in which Triton takes it.
Int32 = Annotated[int | None, "INT32"]
Uint64 = Annotated[int | None, "UINT64"]
Float32 = Annotated[float | None, "FP32"]


class Options(TypedDict, total=False):
    """What may be said with a prompt or messages; None leaves it to the client, or to the server.

    `model` and `timeout` (seconds, for the whole answer) replace the client's own. `idempotent` allows it to be written
    twice, where the connection breaks before the first answer.

    `max_tokens` and `min_tokens` count new tokens. The answer ends before the first of the texts in `stop`. Sampling is
    greedy unless `temperature`, `top_k` (of so many likeliest tokens), `top_p` (of the likeliest that together have
    this probability) or `min_p` (of those with at least this part of the likeliest one's probability) is given;
    `temperature=0` is greedy. The same `seed` gives the same answer. `n` answers are written at once, each drawn by
    itself: they are the `choices` of what comes back.

    `repetition_penalty` (none at 1), `presence_penalty` and `frequency_penalty` (none at 0) make less likely what has
    been said. None of the `bad_words` is said, and `logit_bias` makes tokens likelier or less likely, by their ids:
    `{1234: -100}`. The answer follows `json_schema` (a dict, or its text), `regex`, `grammar` (llama.cpp's GBNF, or
    Lark) or `json` (True for any JSON object or list), one of them at most.

    `log_probs` asks for the log probability of each token, `top_logprobs` for those of so many likeliest tokens too.

    What schedules a request is for servers that know it; others pass over it. Prompts share what was computed of them
    only with those of the same `cache_salt`. `priority_level` is 1 for the best to 9. The slots are shared out among
    the names in `tenant`. What has not started within `queue_timeout` seconds is refused, or ends with `timeout`.
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
    min_p: Float32
    seed: Uint64
    n: int | None
    repetition_penalty: Float32
    presence_penalty: Float32
    frequency_penalty: Float32
    bad_words: str | Sequence[str] | None
    logit_bias: Mapping[int, float] | None
    json_schema: Mapping[str, Any] | str | None
    regex: str | None
    grammar: str | None
    json: bool | None
    log_probs: bool | None
    top_logprobs: Int32
    cache_salt: str | None
    priority_level: int | None
    tenant: str | None
    queue_timeout: float | None


# Input -> its datatype; these settings have the names of their inputs.
DATATYPES = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Options, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}
PROMPTS = ("text_input", "messages")
ANSWERS = "num_return_sequences"
# Option -> its input, where that has another name.
RENAMED = {"n": ANSWERS, "stop": "stop_words"}
# Option -> the kind of guide that it is.
GUIDES = {"json_schema": "json_schema", "regex": "regex", "grammar": "ebnf_grammar", "json": "json"}
GUIDE, KIND_OF_GUIDE = "guided_decoding_guide", "guided_decoding_guide_type"
# About 11 days, in seconds.
LONGEST_S = 1e6


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


def answers_of(call: Generate) -> int:
    """Return how many answers `call` asks for."""
    return int(call.inputs[ANSWERS].content[0]) if ANSWERS in call.inputs else 1


def option_of(name: str, call: Generate) -> str | None:
    """Return which option of `call` its input `name` was made of; None where it has none such, or that is no option."""
    if name not in call.inputs or name in PROMPTS:
        return None
    if name in (GUIDE, KIND_OF_GUIDE):
        (kind,) = call.inputs[KIND_OF_GUIDE].content
        return next(option for option, its in GUIDES.items() if its == kind)
    if name == "top_logprobs" and call.inputs[name].content == (0,):
        return "log_probs"
    return next((option for option, its in RENAMED.items() if its == name), name)


def _generate(model: str, inputs: dict[str, Values], stream: bool, options: Options) -> Generate:
    if unknown := options.keys() - Options.__annotations__.keys():
        raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
    said: Mapping[str, Any] = {name: value for name, value in options.items() if value is not None}
    for option in ("stop", "bad_words"):
        if words := _words(option, said.get(option, ()), model):
            inputs[RENAMED.get(option, option)] = Values("BYTES", words)
    if stream:
        inputs["stream"] = Values("BOOL", (True,))
    # With no alternatives it asks for those of the tokens alone, and for their texts.
    numbers = ({"top_logprobs": 0} if said.get("log_probs") else {}) | dict(said)
    for name, datatype in DATATYPES.items():
        if name in numbers:
            inputs[name] = Values(datatype, (_number(name, datatype, numbers[name], model),))
    if "n" in said:
        inputs[ANSWERS] = Values("INT32", (_count(said["n"], model),))
    if "logit_bias" in said:
        inputs["logit_bias"] = Values("BYTES", (_biases(said["logit_bias"], model),))
    inputs |= _guide(said, model)
    return Generate(model, inputs, stream, bool(said.get("idempotent")), _parameters(said, model))


def _words(option: str, given: object, model: str) -> tuple[str, ...]:
    words = (given,) if isinstance(given, str) else given
    if isinstance(words, bytes | bytearray) or not isinstance(words, Iterable):
        raise InvalidRequest(f"{option} is {type(given).__name__}; pass a str, or a list of them", model=model)
    found = tuple(words)
    for index, word in enumerate(found):
        utf8(word, f"{option} {index}", model)
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


def _count(n: Any, model: str) -> int:
    count = int(_number("n", "INT32", n, model))
    if count < 1:
        raise InvalidRequest(f"n is {count}; ask for 1 answer or more", model=model)
    return count


def _biases(biases: object, model: str) -> str:
    if not isinstance(biases, Mapping):
        fact = f"logit_bias is {type(biases).__name__}; pass a mapping of token ids to biases"
        raise InvalidRequest(fact, model=model)
    for token in biases:
        if not re.fullmatch(r"[0-9]+", str(token)):
            raise InvalidRequest(f"logit_bias names {token!r:.40}, which is not the id of a token", model=model)
    told = {str(id): _number(f"the logit_bias of token {id}", "FP32", bias, model) for id, bias in biases.items()}
    return json.dumps(told)


def _guide(said: Mapping[str, Any], model: str) -> dict[str, Values]:
    """Return the inputs that make the answer follow the one guide that is given, none where there is none."""
    given = [option for option in GUIDES if said.get(option, False) is not False]
    if not given:
        return {}
    if len(given) > 1:
        raise InvalidRequest(f"{' and '.join(given)} are given; an answer follows one of them", model=model)
    (option,) = given
    guide = said[option]
    kind = Values("BYTES", (GUIDES[option],))
    if option == "json":
        if guide is not True:
            raise InvalidRequest(f"json is {guide!r:.40}; it is True or left out, a schema is json_schema", model=model)
        return {KIND_OF_GUIDE: kind}
    if option == "json_schema" and isinstance(guide, Mapping):
        try:
            guide = json.dumps(guide, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"json_schema cannot be written as JSON: {error}", model=model) from None
    utf8(guide, option, model)
    return {KIND_OF_GUIDE: kind, GUIDE: Values("BYTES", (guide,))}


def _parameters(said: Mapping[str, Any], model: str) -> dict[str, Parameter]:
    """Return what is said beside the inputs: names are the server's, times are sent as whole microseconds."""
    found: dict[str, Parameter] = {}
    for name in ("cache_salt", "tenant"):
        if name in said:
            utf8(said[name], name, model)
            found[name] = str(said[name])
    if "priority_level" in said:
        found["priority_level"] = int(_number("priority_level", "INT32", said["priority_level"], model))
    if "queue_timeout" in said:
        seconds = _number("queue_timeout", "FP32", said["queue_timeout"], model)
        if not 1e-6 <= seconds <= LONGEST_S:
            fact = f"queue_timeout is {seconds:g}; give a number of seconds above 0, at most {LONGEST_S:,.0f}"
            raise InvalidRequest(fact, model=model)
        found["queue_timeout"] = round(seconds * 1e6)
    return found
