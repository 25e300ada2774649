"""A first recipe for a checkpoint: look at it, and declare it in at most 12 lines."""

import os
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pipeline.checkpoint import CheckpointError, checkpoint_digest, locate, read_encoder, require_whole
from pipeline.fingerprint import FileDigests
from pipeline.recipe import Quality, Source

# The digest is not known before the checkpoint is found.
UNKNOWN = "sha256:" + "0" * 64


def source_of(checkpoint: str, recipes: Path) -> Source:
    """Read what a user calls a checkpoint: a folder, an installed package, or ``org/name@revision``.

    Raises CheckpointError: it is none of them.
    """
    if Path(checkpoint).is_dir():
        path = os.path.relpath(Path(checkpoint).resolve(), recipes.resolve())
        # A folder outside the checkout is named in full: "../../../.." would only work from here.
        if path.startswith("../../../"):
            path = str(Path(checkpoint).resolve())
        return Source(path=path, digest=UNKNOWN)
    if match := re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w.-]+)", checkpoint):
        return Source(hub=match[1], revision=match[2], digest=UNKNOWN)
    try:
        distribution(checkpoint)
    except (PackageNotFoundError, ValueError):
        raise CheckpointError(
            f"checkpoint '{checkpoint}' is not a folder, not an installed package, and not a Hub id with a revision "
            "(org/name@revision)"
        ) from None
    return Source(package=checkpoint, digest=UNKNOWN)


def model_name(checkpoint: str) -> str:
    """Return a model name made from what the checkpoint is called."""
    stem = checkpoint.rstrip("/").split("@")[0].rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9_-]+", "_", stem).strip("_-") or "model"


def draft(checkpoint: str, recipes: Path, digests: FileDigests) -> str:
    """Return the text of a recipe for `checkpoint`, its digest filled in.

    Raises CheckpointError: it is missing, damaged, or of a kind that no step can read.
    """
    source = source_of(checkpoint, recipes)
    folder = locate(source, recipes)
    encoder = read_encoder(folder)
    require_whole(folder)
    keys = {key: value for key, value in source.model_dump().items() if value and key != "digest"}
    quality = Quality()
    gates = [
        f"quality.{name} = {{ " + ", ".join(f"{limit} = {value}" for limit, value in gate.model_dump().items()) + " }"
        for name, gate in (("fp32", quality.fp32), ("int8", quality.int8))
    ]
    lines = [
        f"# {checkpoint}: {encoder.family} encoder, embeddings of {encoder.hidden_size} numbers",
        'task = "embed"',
        *(f'checkpoint.{key} = "{value}"' for key, value in keys.items()),
        f'checkpoint.digest = "{checkpoint_digest(folder, digests)}"',
        'engine.cpu.precision = "fp32" # or "int8"',
        f"limits.max_tokens = {encoder.max_tokens}",
        "limits.max_batch_size = 64",
        "limits.max_queue_size = 1024",
        *gates,
    ]
    return "\n".join(lines) + "\n"
