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

from ensembles.errors import YardError
from ensembles.model import Ensemble, Model
from ensembles.pbtxt import HEADER, dump
from pipeline.exchange import exchange
from pipeline.plan import GOLDEN, Plan
from pipeline.recipe import Profile, Recipe
from pipeline.served import VERSION, ensemble_of
from pipeline.store import Artefact

# The backends whose config.pbtxt has the engine's own inputs and outputs.
SIGNED = ("onnxruntime", "tensorrt")
ONNX_TYPES = {"INT64": "tensor(int64)", "FP32": "tensor(float)"}


class RepositoryError(YardError):
    """A model repository is missing, drifted from its recipes, or cannot be swapped in."""


def configs(recipes: Sequence[Recipe], profile: Profile) -> dict[str, str]:
    """Return the text of every config.pbtxt of `recipes` by model name."""
    ensembles = [ensemble_of(recipe, profile) for recipe in recipes]
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


def assemble(
    repository: Path, built: Sequence[tuple[Plan, Artefact]], keep_others: bool, unbuilt: Sequence[Ensemble] = ()
) -> list[str]:
    """Make the repository of the built engines beside `repository` and swap it in; return its model names.

    Of what is `unbuilt` only config.pbtxt is written, which the server cannot load. Models that no recipe generated are
    carried over untouched; with `keep_others` generated ones are too.

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
            for ensemble in unbuilt:
                _describe(fresh, ensemble)
            _carry_over(repository, fresh, keep_others)
            names = sorted(_models(fresh))
            _swap_in(fresh, repository)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise _explain(repository, error) from error
    return names


def _add(tree: Path, plan: Plan, artefact: Artefact) -> None:
    ensemble = ensemble_of(plan.recipe, plan.profile)
    for model in ensemble.models:
        if model.backend in SIGNED and "signature" in artefact.facts:
            require_signature(model, artefact)
    _describe(tree, ensemble)
    # The golden request lies in the ensemble's version folder, which Triton wants to exist and does not read.
    holds = {ensemble.name: [GOLDEN], **{model.name: plan.files[model.backend] for model in ensemble.models}}
    for name, patterns in holds.items():
        version = tree / name / VERSION
        version.mkdir()
        for pattern in patterns:
            _take(artefact.folder, pattern, version)


def _take(folder: Path, pattern: str, version: Path) -> None:
    """Link what `pattern` names in an artefact's `folder` into a version folder; a folder is taken whole."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise RepositoryError(f"engine {folder} holds no {pattern}; run `yard engines` again; the old one stays")
    for source in found:
        if source.is_dir():
            shutil.copytree(source, version / source.name, copy_function=_link)
        else:
            _link(source, version / source.name)


def _describe(tree: Path, ensemble: Ensemble) -> None:
    """Write the config.pbtxt of the ensemble and of its models."""
    for model in _members(ensemble):
        (tree / model.name).mkdir()
        (tree / model.name / "config.pbtxt").write_text(dump(model))


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
