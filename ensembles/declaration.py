"""A TOML file that a user wrote, read against its schema.

Recipes and scenarios are declarations. Pydantic validates; this module words what it found: file, key, value, fact
and the near miss.
"""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from ensembles.errors import YardError, near_miss


class DeclarationError(YardError):
    """A TOML file says something its schema does not allow."""

    exit_code = 2


class Declared(BaseModel):
    """The base of every declared table: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


T = TypeVar("T", bound=Declared)


def read(path: Path, schema: type[T]) -> T:
    """Read the TOML file at `path` as a `schema`.

    Raises DeclarationError: the file is missing, is not TOML, or breaks the schema; every broken key is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        here = sorted(other.name for other in path.parent.glob("*.toml"))
        raise DeclarationError(f"{path} does not exist{near_miss(path.name, here)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{path} cannot be read: {error}") from None
    try:
        return schema.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"{path} is not valid TOML: {error}") from None
    except ValidationError as error:
        lines = [_sentence(detail, schema) for detail in error.errors()]
        raise DeclarationError("\n".join(f"{path}: {line}" for line in lines)) from None


def _sentence(detail: ErrorDetails, schema: type[BaseModel]) -> str:
    """Word one pydantic finding: key, value, fact, near miss."""
    # Pydantic adds the tag of a union's member to the location; a key is what the file holds.
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    match detail["type"]:
        case "extra_forbidden":
            known = _keys_at(schema, location[:-1])
            return f"unknown key '{key}'; known here: {', '.join(known)}{near_miss(location[-1], known)}"
        case "missing":
            return f"key '{key}' is missing"
        case "literal_error" | "enum":
            allowed = str(detail.get("ctx", {}).get("expected", ""))
            words = [word.strip(" '") for word in allowed.replace(" or ", ",").split(",")]
            hint = near_miss(str(detail["input"]), words)
            return f"{key} = {detail['input']!r} is not one of {', '.join(words)}{hint}"
        case _:
            fact = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
            subject = f"{key} = {detail['input']!r}" if key and not isinstance(detail["input"], dict) else key
            return f"{subject}: {fact}" if subject else fact


def _keys_at(schema: Any, location: list[str]) -> list[str]:
    """The keys that `schema` allows in the table at `location`."""
    for part in location:
        field = schema.model_fields.get(part)
        if field is None:
            return []
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        tables = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
        if not tables:
            return []
        schema = tables[0]
    return sorted(schema.model_fields)
