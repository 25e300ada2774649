"""Ready means right: each ensemble's golden request is answered as the PyTorch reference answers it."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.plan import GOLDEN
from serving.errors import ServingError
from tritonyard import Client, TritonyardError

# Over gRPC the answer is a float32 embedding, in the file a decimal of six digits.
ROUNDING = 1e-4


def golden_files(repository: Path) -> dict[str, Path]:
    """Return the golden request of every model of `repository` that has one, by model name."""
    return {file.parents[1].name: file for file in sorted(repository.glob(f"*/*/{GOLDEN}"))}


def require_golden(url: str, repository: Path, timeout_s: float, members: Collection[str] | None = None) -> None:
    """Send every golden request to the server at `url`, or those of `members` where it serves no others.

    Raises ServingError: one is not answered, or not as the reference answers it.
    """
    with Client(url, timeout=timeout_s) as client:
        for model, file in golden_files(repository).items():
            if members is not None and model not in members:
                continue
            golden = json.loads(file.read_text(encoding="utf-8"))
            wrong_answer = _wrong_embedding if "embedding" in golden else _wrong_text
            try:
                wrong = wrong_answer(client, model, golden)
            except TritonyardError as error:
                raise ServingError(f"model '{model}' does not answer its golden request: {error}") from error
            if wrong:
                raise ServingError(
                    f"model '{model}' answers its golden request wrong: {wrong}; rebuild with `yard engines` and "
                    "`yard repository`"
                )


def _wrong_embedding(client: Client, model: str, golden: Mapping[str, Any]) -> str | None:
    have = client.embed(golden["text"], model=model)
    cosine = worst_cosine(have, np.asarray(golden["embedding"], np.float32))
    if cosine >= golden["min_cosine"] - ROUNDING:
        return None
    return f"cosine {cosine:.5f} with the checkpoint's own embedding, the gate is {golden['min_cosine']}"


def _wrong_text(client: Client, model: str, golden: Mapping[str, Any]) -> str | None:
    """Greedy decoding has one answer: the reference's text, of as many tokens as the engine was seen to agree on.

    Where the reference was not asked any answer with a text will do.
    """
    limit = golden["max_tokens"]
    if "messages" in golden:
        answer = client.chat(golden["messages"], model=model, max_tokens=limit)
    else:
        answer = client.generate(golden["prompt"], model=model, max_tokens=limit)
    if "text" not in golden:
        return None if answer.text.strip() else f"{answer.text!r}, which says nothing"
    return None if answer.text == golden["text"] else f"{answer.text!r}, the checkpoint says {golden['text']!r}"


def worst_cosine(have: "np.ndarray[Any, Any]", want: "np.ndarray[Any, Any]") -> float:
    """Return the smallest cosine between the rows of two [n, width] arrays; 0 when their shapes differ."""
    if have.shape != want.shape:
        return 0.0
    norms = np.linalg.norm(have, axis=1) * np.linalg.norm(want, axis=1)
    return float(((have * want).sum(axis=1) / norms).min())
