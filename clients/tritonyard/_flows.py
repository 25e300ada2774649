"""What each method does, written once for the sync and the async client.

A flow is a generator: it yields calls, gets their answers sent in (or the typed error thrown in) and returns
the method's result. It never waits and never touches a socket; how many calls are under way at once, and
until when, is the driver's (`_client`).
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tritonyard._datatype import packed
from tritonyard._errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerFailed,
    ServerOverloaded,
    ServerUnavailable,
    TritonyardError,
)
from tritonyard._plan import cut, estimate
from tritonyard._transport import Call, GetConfig, Infer, Input, ModelConfig, Parameter, Probe

Result = TypeVar("Result")
Flow = Generator[Sequence[Call], list[Any], Result]
Embeddings = npt.NDArray[np.float32]

NOT_READY = (ServerUnavailable, DeadlineExceeded, ServerOverloaded, ServerFailed, ModelNotFound)


def probing(model: str | None) -> Flow[bool]:
    """Ask whether the server, or `model`, answers requests; a server that is not there is not ready."""
    try:
        (answer,) = yield [Probe(model)]
    except NOT_READY:
        return False
    return bool(answer)


def embedding(
    texts: Sequence[str] | str, model: str, truncate: bool, configs: dict[str, ModelConfig]
) -> Flow[Embeddings]:
    """Embed `texts`; `configs` remembers what models look like, from call to call."""
    texts = as_list(texts, model)
    encoded = [utf8(text, f"text {index}", model) for index, text in enumerate(texts)]
    try:
        config = configs.get(model) or (yield from described(model, configs))
        check_embeds(config, model)
        # One text goes alone, whatever its length.
        requests = [[0]] if len(texts) == 1 else cut([estimate(text) for text in texts], config.max_batch_size)
        width = max(config.outputs["embedding"].dims[-1], 0)
        calls = [embed_call(model, rows, [encoded[row] for row in rows], truncate) for rows in requests]
        answers = yield calls
        return in_order(len(texts), width, calls, answers)
    except TritonyardError:
        # It may have been replaced by one of another shape.
        configs.pop(model, None)
        raise


def described(model: str, configs: dict[str, ModelConfig]) -> Flow[ModelConfig]:
    """Ask what `model` looks like; `configs` remembers it."""
    config: ModelConfig
    (config,) = yield [GetConfig(model)]
    configs[model] = config
    return config


def embed_call(model: str, rows: list[int], texts: list[bytes], truncate: bool) -> Infer:
    """Build one request of UTF-8 `texts`."""
    parameters: dict[str, Parameter] = {"truncate": True} if truncate else {}
    text = Input("text", "BYTES", (len(rows), 1), packed(texts))
    return Infer(model, (text,), ("embedding",), parameters, tuple(rows), idempotent=True)


def in_order(count: int, width: int, calls: Sequence[Infer], answers: list[Any]) -> Embeddings:
    """Put the rows of all answers where the caller's texts stood: FP32 [count, width]."""
    found: list[Embeddings] = [answer["embedding"] for answer in answers]
    if found:
        width = found[0].shape[-1]
    result = np.empty((count, width), np.float32)
    for call, rows in zip(calls, found, strict=True):
        if rows.shape != (len(call.rows), width):
            raise ServerFailed(
                f"{len(call.rows)} texts were answered with embeddings of shape {list(rows.shape)}",
                model=call.model,
            )
        result[list(call.rows)] = rows
    return result


def as_list(texts: object, model: str) -> list[str]:
    """Return `texts` as a list; one str is one text."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, list):
        return texts.copy()
    if isinstance(texts, bytes | bytearray) or not isinstance(texts, Iterable):
        raise InvalidRequest(f"texts is {type(texts).__name__}; pass a list of str, or one str", model=model)
    return list(texts)


def utf8(text: object, what: str, model: str | None = None) -> bytes:
    """Return `text` as UTF-8; raise InvalidRequest that names `what` it is where that cannot be."""
    if not isinstance(text, str):
        raise InvalidRequest(f"{what} is {type(text).__name__}, not str; decode or convert it first", model=model)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{what} cannot be sent as UTF-8: it holds a lone surrogate U+{ord(text[error.start]):04X} at "
            f"position {error.start}; repair it, or use text.encode('utf-8', 'replace').decode()",
            model=model,
        ) from None


def check_embeds(config: ModelConfig, model: str) -> None:
    """Raise InvalidRequest unless the model has the shape of an embedding model."""
    if config.inputs.keys() != {"text"} or "embedding" not in config.outputs or config.max_batch_size < 1:
        raise InvalidRequest(
            f"it turns {', '.join(config.inputs)} into {', '.join(config.outputs)} in batches of "
            f"{config.max_batch_size}, an embedding model turns text into embedding in batches of 1 or more; "
            "name the ensemble, not one of its steps",
            model=model,
        )
