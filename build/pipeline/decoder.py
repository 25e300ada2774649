"""What the generate task must know of a decoder, read from its checkpoint's config.json alone.

The families and their bounds are what onnxruntime-genai 0.18.0 builds right with transformers 5.23.0, measured on
random checkpoints of each: its model builder drops the sliding window of Mistral and Phi-3, swaps the factors of
Phi-3's long rotary embedding for past tokens too, ignores the linear and YaRN forms, and cannot read Gemma 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensembles.errors import near_miss
from pipeline.checkpoint import CheckpointError, read_json

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2")
WITHOUT_WINDOW = ("mistral", "phi3")
ROTARY = ("default", "llama3")


@dataclass(frozen=True)
class Decoder:
    """What a checkpoint's config.json says of a decoder.

    `context` is how many tokens its engine is right for, `bound` what sets that number.
    """

    family: str
    context: int
    bound: str


def require_family(subject: object, family: str) -> None:
    """Raise CheckpointError, with the near miss, unless the generate task carries `family`."""
    if family not in FAMILIES:
        raise CheckpointError(
            f"checkpoint {subject} is of model_type '{family}'; the generate task carries {', '.join(FAMILIES)}"
            f"{near_miss(family, FAMILIES)}"
        )


def read_decoder(folder: Path) -> Decoder:
    """Read what the generate task must know of the decoder in `folder`.

    Raises CheckpointError: config.json is missing or broken, or the checkpoint is of a kind no step can build.
    """
    config = read_json(folder / "config.json")
    family = str(config.get("model_type", ""))
    require_family(folder, family)
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = str(rotary.get("rope_type") or rotary.get("type") or "default")
    if kind not in ROTARY and (family, kind) != ("phi3", "longrope"):
        raise CheckpointError(
            f"checkpoint {folder} has a rotary embedding of type '{kind}'; {', '.join(ROTARY)} and Phi-3's longrope "
            "are carried"
        )
    bounds = _bounds(family, kind, config)
    if "max_position_embeddings" not in bounds:
        raise CheckpointError(f"{folder / 'config.json'} lacks the key 'max_position_embeddings'")
    bound = min(bounds, key=bounds.__getitem__)
    return Decoder(family, bounds[bound], bound)


def _bounds(family: str, rotary: str, config: Mapping[str, Any]) -> dict[str, int]:
    """The keys of config.json that bound how many tokens an engine is right for."""
    keys = ["max_position_embeddings"]
    if family in WITHOUT_WINDOW:
        keys.append("sliding_window")
    if rotary == "longrope":
        keys.append("original_max_position_embeddings")
    return {key: int(config[key]) for key in keys if config.get(key)}
