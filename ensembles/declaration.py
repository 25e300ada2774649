"""A TOML file that a user wrote, read against its schema.

Recipes and scenarios are declarations. Pydantic validates; this module words what it found: file, key, value, fact
and the near miss.
"""

import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

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
        document = tomllib.loads(text)
        return schema.model_validate(document)
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"{path} is not valid TOML: {error}") from None
    except ValidationError as error:
        lines = [_sentence(detail, schema, document) for detail in error.errors()]
        raise DeclarationError("\n".join(f"{path}: {line}" for line in lines)) from None


def _sentence(detail: ErrorDetails, schema: type[BaseModel], document: dict[str, Any]) -> str:
    """Word one pydantic finding: key, value, fact, near miss."""
    location = detail["loc"]
    key = _key(location, document, is_missing=detail["type"] == "missing")
    match detail["type"]:
        case "extra_forbidden":
            known = _keys_at(schema, location[:-1])
            return f"unknown key '{key}'; known here: {', '.join(known)}{near_miss(str(location[-1]), known)}"
        case "missing":
            return f"key '{key}' is missing"
        case "literal_error" | "enum":
            allowed = str(detail.get("ctx", {}).get("expected", ""))
            words = [word.strip(" '") for word in allowed.replace(" or ", ",").split(",")]
            hint = near_miss(str(detail["input"]), words)
            return f"{key} = {detail['input']!r} is not one of {', '.join(words)}{hint}"
        case "union_tag_invalid":
            tag, known = str(detail["ctx"]["tag"]), str(detail["ctx"]["expected_tags"]).replace("'", "").split(", ")
            kind = _under(key, detail["ctx"]["discriminator"])
            return f"{kind} = {tag!r} is not one of {', '.join(known)}{near_miss(tag, known)}"
        case "union_tag_not_found":
            return f"key '{_under(key, detail['ctx']['discriminator'])}' is missing"
        case _:
            fact = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
            subject = f"{key} = {detail['input']!r}" if key and not isinstance(detail["input"], dict) else key
            return f"{subject}: {fact}" if subject else fact


def _under(key: str, discriminator: Any) -> str:
    """The key of a union's discriminator, which pydantic gives in quotes."""
    name = str(discriminator).strip("'")
    return f"{key}.{name}" if key else name


def _key(location: tuple[int | str, ...], document: Any, is_missing: bool) -> str:
    """Return the key that `document` has at a finding's location, to which pydantic adds the tags of unions."""
    kept, at = [], document
    for part in location:
        has_it = part in at if isinstance(at, dict) else isinstance(at, list)
        if has_it:
            kept.append(str(part))
            at = at[part]
    return ".".join([*kept, str(location[-1])] if is_missing else kept)


def _keys_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that `schema` allows in the table at `location`: of keys, places in lists, and tags of unions."""
    tables = [schema]
    for part in location:
        fields = [table.model_fields[part] for table in tables if part in table.model_fields]
        if fields:
            tables = [table for field in fields for table in _tables(field.annotation)]
        elif isinstance(part, str):
            tables = [table for table in tables if _is_tagged(table, part)]
    return sorted({key for table in tables for key in table.model_fields})


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """The tables that a type speaks of: itself, or those of its list or union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables(part)]


def _is_tagged(table: type[BaseModel], tag: str) -> bool:
    return any(tag in get_args(field.annotation) for field in table.model_fields.values())
