"""One encoder in every precision, side by side: size, parity, sentences a second."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import onnx_encoder
from pipeline.engines import Engines
from pipeline.onnx_encoder import MODEL, TOKENIZER
from pipeline.quality import Parity, read_texts
from pipeline.recipe import EMBED_PRECISIONS, EmbedRecipe
from pipeline.store import Report
from pipeline.timing import median_seconds

BATCH = 8


@dataclass(frozen=True)
class EncoderRow:
    """One precision: bytes on disk, parity with the checkpoint, the gate's findings, speed in this process."""

    precision: str
    bytes: int
    parity: Parity
    misses: list[str]
    sentences_per_second: float


def compare_encoders(engines: Engines, recipe: EmbedRecipe, report: Report) -> list[EncoderRow]:
    """Build `recipe` in every precision and measure them in turns, so that a drifting machine hits all alike.

    An engine that misses its gate is measured too; nothing is published here.
    """
    plans = [engines.plan(recipe, precision=precision) for precision in EMBED_PRECISIONS]
    with ExitStack() as stack:
        made = [engines.unpublished(plan, stack, report) for plan in plans]
        report("measuring speed")
        speeds = _speeds([folder for folder, _ in made], recipe.limits.max_tokens)
        return [
            EncoderRow(
                precision=plan.label,
                bytes=(folder / MODEL).stat().st_size,
                parity=Parity(**facts["parity"]),
                misses=plan.misses(facts),
                sentences_per_second=round(speed, 1),
            )
            for plan, (folder, facts), speed in zip(plans, made, speeds, strict=True)
        ]


def _speeds(folders: Sequence[Path], max_tokens: int) -> list[float]:
    """Sentences a second of each engine over the parity texts in batches of BATCH, sorted by length."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folders[0] / TOKENIZER))
    tokenizer.enable_truncation(max_tokens)
    texts = sorted(read_texts(), key=len)
    sessions = [onnx_encoder.open_session(folder / MODEL) for folder in folders]
    feeds = [
        _feed(tokenizer, texts[start : start + BATCH], {each.name for each in sessions[0].get_inputs()})
        for start in range(0, len(texts), BATCH)
    ]
    works = [partial(_run_all, session, feeds) for session in sessions]
    return [len(texts) / seconds for seconds in median_seconds(works)]


def _run_all(session: Any, feeds: Sequence[dict[str, Any]]) -> None:
    for feed in feeds:
        session.run(None, feed)


def _feed(tokenizer: Any, texts: list[str], wanted: set[str]) -> dict[str, Any]:
    import numpy as np

    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)
    columns = {
        "input_ids": [each.ids for each in encodings],
        "attention_mask": [each.attention_mask for each in encodings],
        "token_type_ids": [each.type_ids for each in encodings],
    }
    return {name: np.array(rows, np.int64) for name, rows in columns.items() if name in wanted}
