"""What the embed task must know of an encoder, read from its checkpoint's own files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ensembles.embed import Pooling
from ensembles.errors import near_miss
from pipeline.checkpoint import CheckpointError, read_json

# The encoders that onnxruntime's fusion carries, with their inputs in the engine's order.
TYPED = ("input_ids", "attention_mask", "token_type_ids")
UNTYPED = ("input_ids", "attention_mask")
FAMILIES = {"bert": TYPED, "roberta": UNTYPED, "xlm-roberta": UNTYPED, "distilbert": UNTYPED}

POOLINGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}


@dataclass(frozen=True)
class Encoder:
    """What a checkpoint's own files say of an encoder. Lengths in tokens."""

    family: str
    inputs: tuple[str, ...]
    hidden_size: int
    heads: int
    pooling: Pooling
    normalize: bool
    positions: int
    max_tokens: int


def read_encoder(folder: Path) -> Encoder:
    """Read what the embed task must know of the encoder in `folder`.

    Raises CheckpointError: a file is missing or broken, or the checkpoint is of a kind no step can read.
    """
    config = read_json(folder / "config.json")
    family = str(config.get("model_type", ""))
    if family not in FAMILIES:
        raise CheckpointError(
            f"checkpoint {folder} is of model_type '{family}'; the embed task carries {', '.join(FAMILIES)}"
            f"{near_miss(family, FAMILIES)}"
        )
    try:
        # DistilBERT has its own names.
        hidden = int(config.get("hidden_size") or config["dim"])
        heads = int(config.get("num_attention_heads") or config["n_heads"])
        positions = int(config["max_position_embeddings"])
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'} lacks the key {error}") from None
    if "roberta" in family:  # counts its positions from pad_token_id + 1
        positions -= int(config.get("pad_token_id") or 1) + 1
    pooling, normalize = _read_modules(folder)
    sentence = folder / "sentence_bert_config.json"
    longest = read_json(sentence).get("max_seq_length") if sentence.exists() else None
    return Encoder(
        family=family,
        inputs=FAMILIES[family],
        hidden_size=hidden,
        heads=heads,
        pooling=pooling,
        normalize=normalize,
        positions=positions,
        max_tokens=min(int(longest or positions), positions),
    )


def _read_modules(folder: Path) -> tuple[Pooling, bool]:
    """Read pooling and normalisation; a plain encoder without modules.json is mean-pooled, not normalised,
    as sentence-transformers does."""
    modules = folder / "modules.json"
    if not modules.exists():
        return "mean", False
    pooling: Pooling = "mean"
    normalize = False
    for module in cast(list[dict[str, Any]], read_json(modules)):
        match str(module["type"]).rsplit(".", 1)[-1]:
            case "Transformer":
                pass
            case "Pooling":
                pooling = _read_pooling(folder / module["path"] / "config.json")
            case "Normalize":
                normalize = True
            case other:
                raise CheckpointError(f"{modules}: module '{other}' is not carried; Pooling and Normalize are")
    return pooling, normalize


def _read_pooling(file: Path) -> Pooling:
    config = read_json(file)
    on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if isinstance(config.get("pooling_mode"), str):  # the form since sentence-transformers 5
        on = [key for key, pooling in POOLINGS.items() if pooling == config["pooling_mode"]]
    if len(on) != 1 or on[0] not in POOLINGS:
        raise CheckpointError(
            f"{file}: pooling {' and '.join(on) or config.get('pooling_mode', 'none')} is not carried; one of "
            f"{', '.join(POOLINGS)} is"
        )
    return POOLINGS[on[0]]
