"""The parity gate of an encoder: it must say what its checkpoint says, on real sentences of mixed length and batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensembles.errors import YardError
from pipeline.encoder import Encoder
from pipeline.recipe import EmbedGate

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

TEXTS = Path(__file__).parent / "texts" / "parity.txt"
BATCHES = (1, 2, 5, 8, 16)
GOLDEN_TEXTS = 3


class QualityError(YardError):
    """An engine does not say what its checkpoint says."""


@dataclass(frozen=True)
class Parity:
    """How far an engine is from its PyTorch reference.

    `max_abs_difference` over the hidden states of all real tokens; cosines between pooled embeddings.
    """

    texts: int
    max_abs_difference: float
    min_cosine: float
    mean_cosine: float


def misses(parity: Parity, gate: EmbedGate) -> list[str]:
    """Return, in words and figures, each limit of `gate` that `parity` misses; NaN misses all."""
    found = []
    if not parity.max_abs_difference <= gate.max_abs_difference:
        found.append(
            f"max abs difference {parity.max_abs_difference:.3g} is above the limit {gate.max_abs_difference:.3g} "
            f"({parity.max_abs_difference / gate.max_abs_difference:.1f} times)"
        )
    for name in ("min_cosine", "mean_cosine"):
        value, limit = getattr(parity, name), getattr(gate, name)
        if not value >= limit:
            found.append(f"{name.replace('_', ' ')} {value:.5f} is {limit - value:.5f} below the limit {limit}")
    return found


def read_texts() -> list[str]:
    """Return the sentences that parity is measured on."""
    return TEXTS.read_text(encoding="utf-8").splitlines()


def batches(texts: list[str]) -> Iterator[list[str]]:
    """Cut `texts` into batches of mixed size; neighbours differ in length, so padding is exercised."""
    half = len(texts) // 2
    pairs = zip_longest(texts[:half], reversed(texts[half:]))
    mixed = [text for pair in pairs for text in pair if text is not None]
    start = 0
    for size in BATCHES * len(mixed):
        if start >= len(mixed):
            return
        yield mixed[start : start + size]
        start += size


def measure(
    reference: "nn.Module", session: Any, folder: Path, encoder: Encoder, max_tokens: int
) -> tuple[Parity, dict[str, Any]]:
    """Run reference and engine over the parity texts.

    Returns the parity, and the golden request: the first texts with the embeddings of the reference.
    """
    import numpy as np
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    options = _tokenizing(encoder)
    worst, cosines = 0.0, []
    with torch.no_grad():
        for batch in batches(read_texts()):
            tokens = tokenizer(batch, truncation=True, max_length=max_tokens, **options)
            feed = {name: tokens[name] for name in encoder.inputs}
            want = reference(**feed).last_hidden_state.numpy()
            have = session.run(None, {name: value.numpy() for name, value in feed.items()})[0]
            mask = tokens["attention_mask"].numpy()
            worst = max(worst, float(np.abs(want - have)[mask > 0].max()))
            cosines += _cosines(pool(want, mask, encoder), pool(have, mask, encoder))
        golden = _golden(reference, tokenizer, encoder)
    return Parity(len(cosines), worst, min(cosines), sum(cosines) / len(cosines)), golden


def pool(hidden: "np.ndarray[Any, Any]", mask: "np.ndarray[Any, Any]", encoder: Encoder) -> "np.ndarray[Any, Any]":
    """Pool hidden states [B, S, H] to embeddings [B, H], as sentence-transformers does: the gate's own reference."""
    import numpy as np

    weights = mask[:, :, None].astype(np.float32)
    match encoder.pooling:
        case "cls":
            pooled = hidden[:, 0]
        case "max":
            pooled = np.where(weights > 0, hidden, -np.inf).max(axis=1)
        case "mean":
            pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        case "mean_sqrt_len":
            pooled = (hidden * weights).sum(axis=1) / np.sqrt(weights.sum(axis=1))
    if encoder.normalize:
        pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return pooled


def _cosines(left: "np.ndarray[Any, Any]", right: "np.ndarray[Any, Any]") -> list[float]:
    import numpy as np

    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return [float(value) for value in (left * right).sum(axis=1) / norms]


def _tokenizing(encoder: Encoder) -> dict[str, Any]:
    # Said outright: not every tokenizer gives token types by itself, and some encoders want them.
    typed = "token_type_ids" in encoder.inputs
    return {"padding": True, "return_tensors": "pt", "return_token_type_ids": typed}


def _golden(reference: "nn.Module", tokenizer: Any, encoder: Encoder) -> dict[str, Any]:
    """The request that a served model must answer right before its server counts as ready."""
    # Short ones of unequal length: they fit every limit a recipe may set.
    texts = read_texts()[:GOLDEN_TEXTS]
    tokens = tokenizer(texts, **_tokenizing(encoder))
    hidden = reference(**{name: tokens[name] for name in encoder.inputs}).last_hidden_state.numpy()
    embeddings = pool(hidden, tokens["attention_mask"].numpy(), encoder)
    return {"text": texts, "embedding": [[round(float(x), 6) for x in row] for row in embeddings]}
