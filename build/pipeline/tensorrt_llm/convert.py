"""A Hugging Face checkpoint -> a TensorRT-LLM checkpoint, block by block: no model, no TensorRT-LLM, no GPU.

Each number is read once, rounded once, and goes to every rank that has it, so memory does not grow with the
checkpoint: three blocks at most, and for GPT-2, whose weights are turned, twice its largest tensor.
"""

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensembles.errors import near_miss
from pipeline.checkpoint import CheckpointError, read_json
from pipeline.store import Report
from pipeline.tensorrt_llm.family import FAMILIES, Model, read_model
from pipeline.tensorrt_llm.layout import Layout, Source, layout
from pipeline.tensorrt_llm.rank_config import rank_config
from pipeline.tensorrt_llm.rank_file import NAMES, RankFile
from pipeline.tensorrt_llm.shards import SIZES, Stored, numpy_type, read_shards
from pipeline.tensorrt_llm.split import Split, require_split

if TYPE_CHECKING:
    import numpy as np

BLOCK = 8 * 2**20  # bytes read at a time: they stay in the processor's cache from disk to disk
# Buffers that some checkpoints carry along; each model makes its own.
BUFFERS = re.compile(r"\.rotary_emb\.inv_freq$|\.attn\.(bias|masked_bias)$")


def convert(source: Path, out: Path, split: Split, report: Report) -> Mapping[str, Any]:
    """Write the TensorRT-LLM checkpoint of the Hugging Face folder `source` into the empty folder `out`.

    Returns the facts {tensors, bytes: read, dtype, tp, pp, quantisation}. `report` hears of each hundredth.

    Raises CheckpointError: the checkpoint is missing, damaged, of a kind that is not carried, or cannot be cut as
    `split` says; or a weight is too large for its dtype. OSError: `out` cannot be written.
    """
    model, plan, stored = read_plan(source, split)
    # In the order in which they lie, which disks and their caches read ahead.
    names = sorted(plan.sources, key=lambda name: (stored[name].file, stored[name].begin))
    total = sum(stored[name].bytes for name in names)
    with ExitStack() as stack:
        files = [
            stack.enter_context(RankFile(out / f"rank{rank}.safetensors", shapes, split.dtype))
            for rank, shapes in enumerate(plan.targets)
        ]
        done, said = 0, -1
        for number, name in enumerate(names):
            if (percent := 100 * done // total) != said:
                report(f"tensor {number} of {len(names)}, {done / 1e9:.1f} of {total / 1e9:.1f} GB")
                said = percent
            _copy(name, stored[name], plan.sources[name], files, split.dtype)
            done += stored[name].bytes
    (out / "config.json").write_text(json.dumps(rank_config(model, split), indent=4) + "\n")
    return {
        "tensors": len(names),
        "bytes": total,
        "dtype": split.dtype,
        "tp": split.tp,
        "pp": split.pp,
        "quantisation": split.quantisation,
    }


def read_plan(source: Path, split: Split) -> tuple[Model, Layout, Mapping[str, Stored]]:
    """Return the model in the Hugging Face folder `source`, where its numbers go, and where they lie.

    Only config.json and the headers of the weights are read: whatever `convert` refuses but a number that is too
    large, is refused here.
    """
    model = read_model(source, read_json(source / "config.json"))
    require_split(source, model, split)
    plan = layout(model, split)
    return model, plan, _require_promised(source, plan, read_shards(source), FAMILIES[model.family].prefix)


def _require_promised(folder: Path, plan: Layout, found: Mapping[str, Stored], prefix: str) -> Mapping[str, Stored]:
    """Return the tensors that `plan` reads, under its names.

    Raises CheckpointError: one is missing, of another shape or dtype than config.json promises, or not known.
    """
    if not any(name.startswith(prefix) for name in found):
        # Saved without its language model head, as the first GPT-2 checkpoints were.
        found = {name if name.startswith("lm_head.") else prefix + name: stored for name, stored in found.items()}
    for name, source in plan.sources.items():
        if name not in found:
            raise CheckpointError(
                f"checkpoint {folder} has no tensor '{name}', which its config.json promises{near_miss(name, found)}"
            )
        stored = found[name]
        if stored.shape != source.stored_shape:
            raise CheckpointError(
                f"checkpoint {folder}: tensor '{name}' has shape {list(stored.shape)}, its config.json promises "
                f"{list(source.stored_shape)}"
            )
        if stored.dtype not in SIZES:
            raise CheckpointError(
                f"checkpoint {folder}: tensor '{name}' is of {stored.dtype}; {', '.join(SIZES)} are converted"
            )
    # A head that is stored although it is tied says what the embedding says.
    unknown = [name for name in found.keys() - plan.sources.keys() - {"lm_head.weight"} if not BUFFERS.search(name)]
    if unknown:
        shown = ", ".join(f"'{name}'" for name in sorted(unknown)[:3])
        raise CheckpointError(
            f"checkpoint {folder} has {len(unknown)} tensors that its model_type does not: {shown}"
            f"{', ...' if len(unknown) > 3 else ''}; TensorRT-LLM would leave them out"
        )
    return found


def _copy(name: str, stored: Stored, source: Source, files: list[RankFile], dtype: str) -> None:
    """Round one tensor of the checkpoint to `dtype` and write it wherever it goes.

    Raises CheckpointError: numbers that were finite are too large for `dtype`.
    """
    import numpy as np

    rows = stored.shape[0] if source.transposed else max(1, BLOCK // stored.row_bytes)
    # One room for all blocks: fresh memory costs more than the rounding does.
    room = np.empty((min(rows, stored.shape[0]), *stored.shape[1:]), numpy_type(NAMES[dtype]))
    too_large = 0
    for first, block in stored.blocks(rows):
        numbers = block
        if block.dtype != room.dtype:
            numbers = room[: len(block)]
            too_large += _round(block, numbers)
        if source.transposed:
            numbers = numbers.T
        end = first + len(numbers)
        for piece in source.pieces:
            begin, stop = max(first, piece.rows[0]), min(end, piece.rows[1])
            if begin < stop:
                part = numbers[begin - first : stop - first]
                part = part[:, slice(*piece.columns)] if piece.columns else part
                files[piece.rank].write(piece.target, piece.at + begin - piece.rows[0], part)
    if too_large:
        mend = "convert to bfloat16" if dtype == "float16" else "the checkpoint is damaged"
        raise CheckpointError(
            f"checkpoint weights {stored.file}: {too_large} numbers of tensor '{name}' are too large for {dtype} and "
            f"would become infinite; {mend}"
        )


def _round(block: "np.ndarray[Any, Any]", numbers: "np.ndarray[Any, Any]") -> int:
    """Round `block` into `numbers`, to the nearest, ties to even; return how many finite ones became infinite."""
    import numpy as np

    with np.errstate(over="ignore"):
        np.copyto(numbers, block, casting="unsafe")
    # Seen in the bits, since isinf is slow on 16-bit floats: the largest are infinity and what is no number.
    infinity = int(np.array(np.inf, numbers.dtype).view(np.uint16))
    if numbers.view(np.int16).max() < infinity and numbers.view(np.uint16).max() < infinity + 0x8000:
        return 0
    return int(np.count_nonzero(np.isinf(numbers) & np.isfinite(block)))
