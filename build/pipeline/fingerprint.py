"""Digests of what a step reads: files (remembered, so that nothing is read twice), tool versions, source code."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def canonical(value: Any) -> bytes:
    """Return the one JSON text of `value`: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tool_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each package without importing it; 'absent' where there is none."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


class FileDigests:
    """File digests remembered in one JSON file by size, mtime in ns and inode.

    A file whose bytes changed under an unchanged mtime is not noticed here; steps that run read with `fresh`.
    """

    def __init__(self, memory: Path):
        self._memory = memory
        try:
            self._known: dict[str, list[Any]] = json.loads(memory.read_text())
        except (OSError, ValueError):
            self._known = {}

    def of(self, file: Path, *, fresh: bool = False) -> str:
        """Return the SHA-256 of `file` in hex, from memory unless it changed or `fresh` is asked for."""
        status = file.stat()
        mark = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self._known.get(str(file.resolve()))
        if known and known[:3] == mark and not fresh:
            return str(known[3])
        value = file_digest(file)
        if known != [*mark, value]:
            self._known[str(file.resolve())] = [*mark, value]
            self._save()
        return value

    def _save(self) -> None:
        # Two builds may save at once: each renames a whole file, and a lost entry is only hashed again.
        temporary = self._memory.with_suffix(f".{os.getpid()}")
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known))
            temporary.replace(self._memory)
        except OSError:
            # Only a memory: on a full disk the step that needs the space says so.
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
