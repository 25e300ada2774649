"""The recipe: one TOML file that declares one served model. Everything else is derived from it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ensembles.declaration import DeclarationError, Declared, read
from ensembles.errors import near_miss

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")

# Hub names and versions keep their dots; Triton takes a model name as a folder name.
MODEL_NAME = r"[a-z0-9][a-z0-9_.-]*"


class Source(Declared):
    """Where the checkpoint comes from: exactly one of `package`, `path` and `hub`."""

    package: Annotated[str, Field(min_length=1)] | None = None
    """An installed Python package that carries the checkpoint."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """A folder in Hugging Face layout; relative to the recipe's folder."""
    hub: Annotated[str, Field(min_length=1)] | None = None
    """A Hugging Face Hub id, with `revision`."""
    revision: Annotated[str, Field(min_length=1)] | None = None
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    """What the checkpoint's files must hash to; `yard init` fills it in."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("package", "path", "hub") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of package, path and hub, not {' and '.join(given) or 'none'}")
        if bool(self.hub) != bool(self.revision):
            raise ValueError("hub and revision go together: a branch moves, a revision does not")
        return self

    def __str__(self) -> str:
        return self.package or self.path or f"{self.hub}@{self.revision}"


class Engine(Declared):
    """How the engine of one profile is built."""

    precision: Precision = "fp32"


class Engines(Declared):
    """The engine of each profile."""

    cpu: Engine = Engine()


class Limits(Declared):
    """What the served model takes; requests beyond are refused with both numbers."""

    max_tokens: Annotated[int, Field(ge=8, le=32768)]
    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = 64
    max_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 1024
    max_text_bytes: Annotated[int, Field(ge=64, le=16_777_216)] = 65_536


class Gate(Declared):
    """How far an engine may be from its checkpoint; an engine outside is not published."""

    max_abs_difference: Annotated[float, Field(gt=0)]
    """Over the hidden states of all real tokens."""
    min_cosine: Annotated[float, Field(gt=0, le=1)]
    """Of the worst pooled embedding with the reference's."""
    mean_cosine: Annotated[float, Field(gt=0, le=1)]
    """Over all pooled embeddings."""


class Quality(Declared):
    """The gate of each precision."""

    fp32: Gate = Gate(max_abs_difference=1e-4, min_cosine=0.9999, mean_cosine=0.9999)
    int8: Gate = Gate(max_abs_difference=2.0, min_cosine=0.93, mean_cosine=0.985)


class Declaration(Declared):
    """The tables of a recipe file."""

    task: Literal["embed"]
    checkpoint: Source
    engine: Engines = Engines()
    limits: Limits
    quality: Quality = Quality()


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read: its file's stem is the model's name."""

    file: Path
    name: str
    task: Literal["embed"]
    checkpoint: Source
    engine: Engines
    limits: Limits
    quality: Quality


def require_model_name(name: str) -> None:
    """Raise DeclarationError when `name` cannot be the name of a model and of its folder."""
    if not re.fullmatch(MODEL_NAME, name):
        raise DeclarationError(f"{name!r} is not a model name; use a-z, 0-9, '_', '-' and '.', a letter or digit first")


def read_recipe(file: Path) -> Recipe:
    """Read one recipe.

    Raises DeclarationError: the file breaks the schema, or its name is not a model name.
    """
    require_model_name(file.stem)
    declared = read(file, Declaration)
    tables = {name: getattr(declared, name) for name in Declaration.model_fields}
    return Recipe(file, file.stem, **tables)


def read_recipes(folder: Path, name: str | None = None) -> list[Recipe]:
    """Read the recipe `name` from `folder`, or all of them, by name.

    Raises DeclarationError: a recipe is broken, `name` is unknown, or there is none at all.
    """
    files = {file.stem: file for file in sorted(folder.glob("*.toml"))}
    if not files:
        raise DeclarationError(f"{folder} holds no recipe; `yard init CHECKPOINT` writes one")
    if name is None:
        return [read_recipe(file) for file in files.values()]
    if name not in files:
        raise DeclarationError(f"model '{name}' has no recipe in {folder}{near_miss(name, files)}")
    return [read_recipe(files[name])]
