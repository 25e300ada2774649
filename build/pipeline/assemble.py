"""Engine -> repository: the tree that Triton mounts, made beside the live one and swapped in whole.

`config.pbtxt` is a function of the recipe, and for embed of the checkpoint's config, alone: it is committed. Version
folders hard-link into the store.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensembles.embed import EmbedSpec, embed_ensemble
from ensembles.errors import YardError
from ensembles.generate import GenerateSpec, generate_ensemble
from ensembles.model import Ensemble, Model
from ensembles.pbtxt import HEADER, dump
from pipeline.embed_plan import EmbedPlan
from pipeline.engines import GOLDEN, Plan
from pipeline.exchange import exchange
from pipeline.onnx_decoder import CHAT, DATA, DECODER
from pipeline.onnx_encoder import MODEL, TOKENIZER
from pipeline.store import Artefact

VERSION = "1"
ONNX_TYPES = {"INT64": "tensor(int64)", "FP32": "tensor(float)"}


class RepositoryError(YardError):
    """A model repository is missing, drifted from its recipes, or cannot be swapped in."""


# What each model's version folder holds, by the backend that reads it.
EMBED_FILES = {"tokenizer": [TOKENIZER], "onnxruntime": [MODEL], "pooler": []}
GENERATE_FILES = {
    "tokenizer": [TOKENIZER, CHAT],
    "onnx_generate": [MODEL, DATA, DECODER],
    "detokenizer": [TOKENIZER],
}


def ensemble_of(plan: Plan) -> Ensemble:
    """Return the ensemble that serves the recipe of `plan`."""
    if isinstance(plan, EmbedPlan):
        limits, encoder = plan.recipe.limits, plan.encoder
        return embed_ensemble(
            EmbedSpec(
                name=plan.recipe.name,
                encoder_inputs=encoder.inputs,
                hidden_size=encoder.hidden_size,
                pooling=encoder.pooling,
                normalize=encoder.normalize,
                max_tokens=limits.max_tokens,
                max_text_bytes=limits.max_text_bytes,
                max_batch_size=limits.max_batch_size,
                max_queue_size=limits.max_queue_size,
            )
        )
    return generate_ensemble(GenerateSpec(name=plan.recipe.name, **plan.recipe.limits.model_dump()))


def configs(plans: Sequence[Plan]) -> dict[str, str]:
    """Return the text of every config.pbtxt by model name."""
    ensembles = [ensemble_of(plan) for plan in plans]
    return {model.name: dump(model) for each in ensembles for model in _members(each)}


def drift(repository: Path, wanted: Mapping[str, str]) -> list[str]:
    """Return, a sentence each, where the committed config.pbtxt files differ from those that would be generated."""
    found = []
    for name, text in wanted.items():
        file = repository / name / "config.pbtxt"
        if not file.exists():
            found.append(f"{file} is missing")
        elif file.read_text() != text:
            found.append(f"{file} differs from what its recipe gives")
    for name in sorted(_models(repository) - set(wanted)):
        if _generated(repository / name):
            found.append(f"{repository / name / 'config.pbtxt'} was generated, but no recipe makes it")
    return found


def require_signature(model: Model, artefact: Artefact) -> None:
    """Raise RepositoryError when the built engine's own inputs and outputs are not those of `model`."""
    engine: Mapping[str, Any] = artefact.facts["signature"]
    config = {
        side: {tensor.name: [ONNX_TYPES[tensor.dtype], [-1, *tensor.dims]] for tensor in tensors}
        for side, tensors in (("inputs", model.inputs), ("outputs", model.outputs))
    }
    for side in ("inputs", "outputs"):
        if engine[side] != config[side]:
            raise RepositoryError(
                f"engine of {model.name} in {artefact.folder}: its {side} are {engine[side]}, config.pbtxt says "
                f"{config[side]}; the checkpoint's config.json and its weights disagree"
            )


def assemble(repository: Path, built: Sequence[tuple[Plan, Artefact]], keep_others: bool) -> list[str]:
    """Make the repository of the built engines beside `repository` and swap it in; return its model names.

    Models that no recipe generated are carried over untouched; with `keep_others` generated ones are too.

    Raises RepositoryError: an engine does not match its config, or the file system cannot do what is needed.
    """
    repository.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Beside the live tree, not in it: tritonserver takes every folder of a repository for a model.
        fresh = Path(tempfile.mkdtemp(prefix=f".{repository.name}-", dir=repository.parent))
        try:
            fresh.chmod(0o755)
            for plan, artefact in built:
                _add(fresh, plan, artefact)
            _carry_over(repository, fresh, keep_others)
            names = sorted(_models(fresh))
            _swap_in(fresh, repository)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise _explain(repository, error) from error
    return names


def _add(tree: Path, plan: Plan, artefact: Artefact) -> None:
    ensemble = ensemble_of(plan)
    files = GENERATE_FILES
    if isinstance(plan, EmbedPlan):
        files = EMBED_FILES
        require_signature(ensemble.models[1], artefact)
    # The golden request lies in the ensemble's version folder, which Triton wants to exist and does not read.
    holds = {ensemble.name: [GOLDEN], **{model.name: files[model.backend] for model in ensemble.models}}
    for model in _members(ensemble):
        version = tree / model.name / VERSION
        version.mkdir(parents=True)
        (tree / model.name / "config.pbtxt").write_text(dump(model))
        for file in holds[model.name]:
            _link(artefact.folder / file, version / file)


def _members(ensemble: Ensemble) -> list[Model | Ensemble]:
    return [ensemble, *ensemble.models]


def _carry_over(old: Path, new: Path, keep_others: bool) -> None:
    for name in _models(old) - _models(new):
        if keep_others or not _generated(old / name):
            shutil.copytree(old / name, new / name, copy_function=_link)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copy2(source, target)


def _swap_in(fresh: Path, repository: Path) -> None:
    if repository.exists():
        exchange(fresh, repository)
    else:
        fresh.rename(repository)


def _explain(repository: Path, error: OSError) -> RepositoryError:
    if error.errno == errno.EINVAL:
        return RepositoryError(
            f"repository {repository}: its file system cannot exchange two folders atomically (renameat2); put the "
            "checkout on ext4, xfs, btrfs or tmpfs"
        )
    return RepositoryError(f"repository {repository}: {error.filename or ''}: {error.strerror}; the old one stays")


def _models(repository: Path) -> set[str]:
    if not repository.exists():
        return set()
    return {folder.name for folder in repository.iterdir() if (folder / "config.pbtxt").exists()}


def _generated(model: Path) -> bool:
    return (model / "config.pbtxt").read_text(errors="replace").startswith(HEADER)
