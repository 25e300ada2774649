"""A first recipe for a checkpoint: look at it, and declare it in at most 12 lines."""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ensembles.declaration import Declared
from ensembles.errors import near_miss
from pipeline import decoder, encoder, gguf_checkpoint
from pipeline.checkpoint import GGUF, CheckpointError, checkpoint_digest, locate, read_json, require_whole
from pipeline.decoder import read_decoder
from pipeline.encoder import read_encoder
from pipeline.fingerprint import FileDigests
from pipeline.recipe import (
    EMBED_PRECISIONS,
    GENERATE_PRECISIONS,
    EmbedQuality,
    GenerateQuality,
    Profile,
    Source,
)

# The digest is not known before the checkpoint is found.
UNKNOWN = "sha256:" + "0" * 64
# What most requests need; more is asked for by hand, since each slot takes the memory of it.
MAX_TOKENS = 1024
# The engine of each profile, and what else it may be.
EMBED_ENGINES: Mapping[Profile, str] = {
    "cpu": 'engine.cpu.precision = "fp32" # or "int8"',
    "gpu": 'engine.gpu = { kind = "onnx", precision = "fp16" } # or kind "tensorrt", a plan for each kind of GPU',
}
GENERATE_ENGINES: Mapping[Profile, str] = {
    "cpu": 'engine.cpu.precision = "int8" # or "fp32", "int4"',
    "gpu": 'engine.gpu = { kind = "tensorrt_llm", dtype = "bfloat16" } # or kind "llmapi", "onnx"',
}


def source_of(checkpoint: str, recipes: Path) -> Source:
    """Read what a user calls a checkpoint: a folder, a GGUF file, an installed package, or
    ``org/name@revision``.

    Raises CheckpointError: it is none of them.
    """
    if Path(checkpoint).is_dir() or Path(checkpoint).suffix == GGUF:
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
    stem = checkpoint.rstrip("/").split("@")[0].rsplit("/", 1)[-1].lower().removesuffix(GGUF)
    return re.sub(r"[^a-z0-9_-]+", "_", stem).strip("_-") or "model"


def draft(checkpoint: str, recipes: Path, digests: FileDigests, profile: Profile = "cpu") -> str:
    """Return the text of a recipe for `checkpoint` and `profile`, its digest filled in.

    Raises CheckpointError: it is missing, damaged, or of a kind that no step can read.
    """
    source = source_of(checkpoint, recipes)
    folder = locate(source, recipes)
    keys = {key: value for key, value in source.model_dump().items() if value and key != "digest"}
    kind, task, tables = _generate(folder, profile) if _generates(folder) else _embed(folder, profile)
    lines = [
        f"# {checkpoint}: {kind}",
        f'task = "{task}"',
        *(f'checkpoint.{key} = "{value}"' for key, value in keys.items()),
        f'checkpoint.digest = "{checkpoint_digest(folder, digests)}"',
        *tables,
    ]
    return "\n".join(lines) + "\n"


def _generates(folder: Path) -> bool:
    """Whether the checkpoint is for the generate task.

    Raises CheckpointError: its family belongs to no task.
    """
    if folder.is_file():
        return True
    family = str(read_json(folder / "config.json").get("model_type", ""))
    families = (*encoder.FAMILIES, *decoder.FAMILIES)
    if family not in families:
        raise CheckpointError(
            f"checkpoint {folder} is of model_type '{family}'; carried are {', '.join(families)}"
            f"{near_miss(family, families)}"
        )
    return family in decoder.FAMILIES


def _embed(folder: Path, profile: Profile) -> tuple[str, str, list[str]]:
    facts = read_encoder(folder)
    require_whole(folder)
    tables = [
        EMBED_ENGINES[profile],
        f"limits.max_tokens = {facts.max_tokens}",
        "limits.max_batch_size = 64",
        "limits.max_queue_size = 1024",
        *_gates(EmbedQuality(), EMBED_PRECISIONS if profile == "cpu" else ("fp32", "fp16")),
    ]
    return f"{facts.family} encoder, embeddings of {facts.hidden_size} numbers", "embed", tables


def _generate(folder: Path, profile: Profile) -> tuple[str, str, list[str]]:
    if folder.is_file():
        family, context = gguf_checkpoint.require_carried(folder)
    else:
        facts = read_decoder(folder)
        family, context = facts.family, facts.context
        require_whole(folder)
    tables = [
        GENERATE_ENGINES[profile],
        f"limits.max_tokens = {min(context, MAX_TOKENS)}",
        "limits.slots = 16",
        "limits.max_queue_size = 256",
        *_gates(GenerateQuality(), GENERATE_PRECISIONS if profile == "cpu" else ()),
    ]
    return f"{family} decoder, context of {context} tokens", "generate", tables


def _gates(quality: Declared, precisions: Sequence[str]) -> list[str]:
    """The gate of each of `precisions`, a line each."""
    gates: dict[str, dict[str, float]] = quality.model_dump()
    return [
        f"quality.{precision} = {{ "
        + ", ".join(f"{limit} = {value}" for limit, value in gates[precision].items())
        + " }"
        for precision in precisions
    ]
