"""The recipe: one TOML file that declares one served model. Everything else is derived from it.

The key `task` chooses the schema: each task has its own precisions, limits and gates.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import Field, model_validator

from ensembles.declaration import DeclarationError, Declared, read
from ensembles.errors import near_miss
from pipeline.gpu_engines import EmbedGpuEngine, GenerateGpuEngine

EmbedPrecision = Literal["fp32", "fp16", "int8"]
GeneratePrecision = Literal["fp32", "fp16", "int8", "int4"]
Precision: TypeAlias = EmbedPrecision | GeneratePrecision

# What --compare holds side by side.
EMBED_PRECISIONS: tuple[EmbedPrecision, ...] = ("fp32", "int8")
GENERATE_PRECISIONS: tuple[GeneratePrecision, ...] = ("fp32", "int8", "int4")

Profile = Literal["cpu", "gpu"]
PROFILES: tuple[Profile, ...] = ("cpu", "gpu")

COMMIT = r"[0-9a-f]{40}"

# Hub names and versions keep their dots; Triton takes a model name as a folder name.
MODEL_NAME = r"[a-z0-9][a-z0-9_.-]*"


class Source(Declared):
    """Where the checkpoint comes from: exactly one of `package`, `path` and `hub`."""

    package: Annotated[str, Field(min_length=1)] | None = None
    """An installed Python package that carries the checkpoint."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """A folder in Hugging Face layout or with one GGUF file, or that file; relative to the recipe's folder."""
    hub: Annotated[str, Field(min_length=1)] | None = None
    """A Hugging Face Hub id, with `revision`."""
    revision: Annotated[str, Field(min_length=1)] | None = None
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """What the checkpoint's files must hash to; `yard init` fills it in. A Hub commit pins its files by itself."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("package", "path", "hub") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of package, path and hub, not {' and '.join(given) or 'none'}")
        if bool(self.hub) != bool(self.revision):
            raise ValueError("hub and revision go together: a branch moves, a revision does not")
        if not (self.digest or re.fullmatch(COMMIT, self.revision or "")):
            raise ValueError("digest is missing: only a Hub revision that is a commit of 40 hex digits does without")
        return self

    def __str__(self) -> str:
        return self.package or self.path or f"{self.hub}@{self.revision}"


Engines = TypeVar("Engines", bound=Declared)


def _require_profile(engines: Engines) -> Engines:
    if not any(getattr(engines, profile) for profile in PROFILES):
        raise ValueError(f"give an engine for {' or '.join(PROFILES)}")
    return engines


class EmbedEngine(Declared):
    """How the encoder of the profile `cpu` is built."""

    precision: Literal["fp32", "int8"] = "fp32"


class EmbedEngines(Declared):
    """The encoder of each profile that the recipe is for."""

    cpu: EmbedEngine | None = None
    gpu: EmbedGpuEngine | None = None

    @model_validator(mode="after")
    def _some_profile(self) -> Self:
        return _require_profile(self)


class EmbedLimits(Declared):
    """What the served model takes; requests beyond are refused with both numbers."""

    max_tokens: Annotated[int, Field(ge=8, le=32768)]
    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = 64
    max_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 1024
    max_text_bytes: Annotated[int, Field(ge=64, le=16_777_216)] = 65_536


class EmbedGate(Declared):
    """How far an encoder may be from its checkpoint; an engine outside is not published."""

    max_abs_difference: Annotated[float, Field(gt=0)]
    """Over the hidden states of all real tokens."""
    min_cosine: Annotated[float, Field(gt=0, le=1)]
    """Of the worst pooled embedding with the reference's."""
    mean_cosine: Annotated[float, Field(gt=0, le=1)]
    """Over all pooled embeddings."""


class EmbedQuality(Declared):
    """The gate of each precision."""

    fp32: EmbedGate = EmbedGate(max_abs_difference=1e-4, min_cosine=0.9999, mean_cosine=0.9999)
    fp16: EmbedGate = EmbedGate(max_abs_difference=0.1, min_cosine=0.9999, mean_cosine=0.99999)
    int8: EmbedGate = EmbedGate(max_abs_difference=2.0, min_cosine=0.93, mean_cosine=0.985)


class EmbedDeclaration(Declared):
    """The tables of a recipe for the task `embed`."""

    task: Literal["embed"]
    checkpoint: Source
    engine: EmbedEngines = EmbedEngines(cpu=EmbedEngine())
    limits: EmbedLimits
    quality: EmbedQuality = EmbedQuality()


class GenerateEngine(Declared):
    """How the decoder of the profile `cpu` is built."""

    kind: Literal["onnx", "openvino"] = "onnx"
    """An ONNX graph under our own `onnx_generate`, or OpenVINO GenAI under `openvino_generate`."""
    precision: Literal["fp32", "int8", "int4"] = "int8"
    speculation: Literal["prompt_lookup"] | None = None
    """Draft what an answer repeats, and verify several tokens at once while one request runs alone."""

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.kind == "openvino" and self.precision != "int8":
            raise ValueError(f"kind = 'openvino' is built in int8, not {self.precision}; leave precision out")
        if self.kind == "openvino" and self.speculation:
            raise ValueError("kind = 'openvino' does not speculate; leave speculation out")
        return self


class GenerateEngines(Declared):
    """The decoder of each profile that the recipe is for."""

    cpu: GenerateEngine | None = None
    gpu: GenerateGpuEngine | None = None

    @model_validator(mode="after")
    def _some_profile(self) -> Self:
        return _require_profile(self)


class GenerateLimits(Declared):
    """What the served model takes; requests beyond are refused with both numbers."""

    max_tokens: Annotated[int, Field(ge=64, le=131_072)]
    """What prompt and answer together may hold."""
    slots: Annotated[int, Field(ge=1, le=256)] = 16
    """How many requests run at once; each takes the key-value memory of `max_tokens`."""
    max_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 256
    max_text_bytes: Annotated[int, Field(ge=64, le=16_777_216)] = 65_536


class GenerateGate(Declared):
    """How far a decoder may be from its checkpoint; an engine outside is not published."""

    max_perplexity_increase: Annotated[float, Field(gt=0)]
    """Relative to the checkpoint's perplexity: 0.05 allows 5 % more."""
    min_greedy_agreement: Annotated[float, Field(gt=0, le=1)]
    """Share of the checkpoint's own greedy tokens that the engine would have chosen too."""
    max_logit_difference: Annotated[float, Field(gt=0)]
    """Of any one logit."""


class GenerateQuality(Declared):
    """The gate of each precision."""

    fp32: GenerateGate = GenerateGate(
        max_perplexity_increase=0.001, min_greedy_agreement=0.995, max_logit_difference=0.01
    )
    fp16: GenerateGate = GenerateGate(max_perplexity_increase=0.01, min_greedy_agreement=0.98, max_logit_difference=0.5)
    int8: GenerateGate = GenerateGate(max_perplexity_increase=0.03, min_greedy_agreement=0.93, max_logit_difference=8.0)
    int4: GenerateGate = GenerateGate(
        max_perplexity_increase=0.05, min_greedy_agreement=0.85, max_logit_difference=16.0
    )


class GenerateDeclaration(Declared):
    """The tables of a recipe for the task `generate`."""

    task: Literal["generate"]
    checkpoint: Source
    engine: GenerateEngines = GenerateEngines(cpu=GenerateEngine())
    limits: GenerateLimits
    quality: GenerateQuality = GenerateQuality()


class UntaskedDeclaration(Declared):
    """What can be said of a recipe whose task is not known: the tables that every task has."""

    task: Literal["embed", "generate"]
    checkpoint: Source
    engine: dict[str, Any] | None = None
    limits: dict[str, Any]
    quality: dict[str, Any] | None = None


@dataclass(frozen=True)
class EmbedRecipe:
    """A recipe of the task `embed` as it was read: its file's stem is the model's name."""

    file: Path
    name: str
    task: Literal["embed"]
    checkpoint: Source
    engine: EmbedEngines
    limits: EmbedLimits
    quality: EmbedQuality


@dataclass(frozen=True)
class GenerateRecipe:
    """A recipe of the task `generate` as it was read: its file's stem is the model's name."""

    file: Path
    name: str
    task: Literal["generate"]
    checkpoint: Source
    engine: GenerateEngines
    limits: GenerateLimits
    quality: GenerateQuality


Recipe: TypeAlias = EmbedRecipe | GenerateRecipe

SCHEMAS: Mapping[str, tuple[type[Declared], type[EmbedRecipe] | type[GenerateRecipe]]] = {
    "embed": (EmbedDeclaration, EmbedRecipe),
    "generate": (GenerateDeclaration, GenerateRecipe),
}


def _task(file: Path) -> Any:
    """The key `task` as it stands, None where there is none: the schema that it chooses says what is wrong."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")).get("task")
    except (OSError, ValueError):
        return None


def require_model_name(name: str) -> None:
    """Raise DeclarationError when `name` cannot be the name of a model and of its folder."""
    if not re.fullmatch(MODEL_NAME, name):
        raise DeclarationError(f"{name!r} is not a model name; use a-z, 0-9, '_', '-' and '.', a letter or digit first")


def read_recipe(file: Path) -> Recipe:
    """Read one recipe.

    Raises DeclarationError: the file breaks the schema, or its name is not a model name.
    """
    require_model_name(file.stem)
    task = _task(file)
    if task not in SCHEMAS:
        read(file, UntaskedDeclaration)  # raises: it knows the tasks
    schema, recipe = SCHEMAS[task]
    declared = read(file, schema)
    tables = {name: getattr(declared, name) for name in schema.model_fields}
    return recipe(file, file.stem, **tables)


def read_recipes(folder: Path, profile: Profile, name: str | None = None) -> list[Recipe]:
    """Read the recipe `name` from `folder`, or all that have an engine for `profile`, by name.

    Raises DeclarationError: a recipe is broken, `name` is unknown or not for `profile`, or there is none at all.
    """
    files = {file.stem: file for file in sorted(folder.glob("*.toml"))}
    if not files:
        raise DeclarationError(f"{folder} holds no recipe; `yard init CHECKPOINT` writes one")
    if name is not None and name not in files:
        raise DeclarationError(f"model '{name}' has no recipe in {folder}{near_miss(name, files)}")
    chosen = files.values() if name is None else [files[name]]
    recipes = [recipe for recipe in map(read_recipe, chosen) if getattr(recipe.engine, profile)]
    if name is not None and not recipes:
        raise DeclarationError(
            f"{files[name]} declares no engine for the profile '{profile}'; add engine.{profile}, or choose another "
            "--profile"
        )
    if not recipes:
        raise DeclarationError(f"no recipe in {folder} declares an engine for the profile '{profile}'")
    return recipes
