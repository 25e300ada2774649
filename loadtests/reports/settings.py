"""A declaration as flat settings, dotted key -> value, for those who list or compare it. Pure."""

from collections.abc import Iterator

from pydantic import BaseModel


def settings(declared: BaseModel) -> dict[str, object]:
    """Return every setting of `declared` that is set, such as `arrivals.rate`; items of a list are counted from 1."""
    return dict(_flat(declared.model_dump(mode="json", exclude_none=True), ""))


def _flat(value: object, key: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value, start=1))
    else:
        yield key, value
        return
    for name, each in inner:
        yield from _flat(each, f"{key}.{name}" if key else str(name))
