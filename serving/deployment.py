"""What one server of the profile `gpu` serves: which ensembles, from which image, on how many GPUs.

NVIDIA's images carry TensorRT-LLM or the other backends, none both, so a repository may want several servers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensembles.errors import near_miss
from ensembles.folder import Folder
from ensembles.wiring import Repository, read_repository
from pipeline.gpu_fingerprint import FILE, read_fingerprint
from serving.errors import ServingError

LLM_BACKENDS = {"tensorrtllm", "llmapi"}
# Python-based and without a GPU: they run in either image.
NEUTRAL = {"tokenizer", "detokenizer", ""}


@dataclass(frozen=True)
class Deployment:
    """`models` are the ensembles that are loaded, `members` all models of them.

    Of a TensorRT-LLM engine over several GPUs each of the `ranks` is a process; those after the first load `decoders`
    alone. `auto_complete`: the LLM API says in model.yaml what others say in config.pbtxt.
    """

    models: tuple[str, ...]
    members: tuple[str, ...]
    decoders: tuple[str, ...]
    needs_llm: bool
    ranks: int
    auto_complete: bool


def built_models(repository: Path) -> list[str]:
    """Return the ensembles of `repository` whose models all have a version to load."""
    return _built(_read(repository))


def deployment(repository: Path, models: Sequence[str]) -> Deployment:
    """Return what a server of the ensembles `models` loads; of all that are built when none is named.

    Raises ServingError: there is no such ensemble, it was not built, or no image of NVIDIA's serves them together.
    """
    whole = _read(repository)
    known = _ensembles(whole)
    for name in models:
        if name not in known:
            raise ServingError(f"repository {repository} has no ensemble '{name}'{near_miss(name, known)}")
    chosen = tuple(models) or tuple(_built(whole))
    if not chosen:
        raise ServingError(f"repository {repository} holds no built model; run `yard repository --profile gpu`")
    members = tuple(sorted({member for name in chosen for member in _members(whole, name)}))
    for member in members:
        if not _is_built(whole, member):
            raise ServingError(
                f"model '{member}' of {repository} has no version to load: its engine was not built; run "
                "`yard engines --profile gpu` on the machine with the GPU, then `yard repository --profile gpu`"
            )
    backends = {member: config.backend for member in members if (config := whole.config(member))}
    llm = [name for name, backend in backends.items() if backend in LLM_BACKENDS]
    other = [name for name, backend in backends.items() if backend not in LLM_BACKENDS | NEUTRAL]
    if llm and other:
        raise ServingError(
            f"'{llm[0]}' (backend {backends[llm[0]]}) and '{other[0]}' (backend {backends[other[0]]}) need different "
            "images of NVIDIA's, so a server each: name the models, `yard serve --profile gpu MODEL`"
        )
    decoders = tuple(name for name, backend in backends.items() if backend == "tensorrtllm")
    return Deployment(
        models=chosen,
        members=members,
        decoders=decoders,
        needs_llm=bool(llm),
        ranks=_ranks(whole, decoders),
        auto_complete="llmapi" in backends.values(),
    )


def _ranks(whole: Repository, decoders: Sequence[str]) -> int:
    ranks = {name: _fingerprint_ranks(whole.folders[name]) for name in decoders}
    if len(set(ranks.values())) > 1:
        told = ", ".join(f"'{name}' on {count}" for name, count in ranks.items())
        raise ServingError(f"engines over different numbers of GPUs need a server each: {told}; name one model")
    return next(iter(ranks.values()), 1)


def _fingerprint_ranks(folder: Folder) -> int:
    return read_fingerprint(folder.path / folder.versions[max(folder.served)] / FILE).ranks


def _read(repository: Path) -> Repository:
    return read_repository(repository) if repository.is_dir() else Repository({})


def _ensembles(whole: Repository) -> list[str]:
    return [name for name in whole.folders if whole.steps(name)]


def _members(whole: Repository, ensemble: str) -> set[str]:
    return {ensemble, *whole.inside(ensemble)}


def _built(whole: Repository) -> list[str]:
    return [name for name in _ensembles(whole) if all(_is_built(whole, member) for member in _members(whole, name))]


def _is_built(whole: Repository, model: str) -> bool:
    return model in whole.folders and bool(whole.folders[model].served)
