"""The store: `.artifacts/<step>/<key>/` with a manifest.json; the key is a digest of everything the step reads.

An artefact is made in a temporary place and renamed, so a reader sees a whole one or none, whenever the build is
interrupted. One lock a key: of two builds at once the second waits and finds the first one's work.
"""

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ensembles.errors import YardError
from pipeline.fingerprint import digest, file_digest

# How a step says what it is doing now.
Report = Callable[[str], None]


class StoreError(YardError):
    """An artefact could not be written, or is not what it was."""


@dataclass(frozen=True)
class Step:
    """One step for one model: `covers` is all that it reads, as JSON, and decides the key."""

    name: str
    model: str
    covers: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The first 16 hex digits of the digest of all that the step reads."""
        return digest(self.covers)[:16]


@dataclass(frozen=True)
class Artefact:
    """A published artefact: its folder, and the facts that its step wrote into the manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the step measured and recorded."""
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts


class Store:
    """The artefacts below one root folder."""

    def __init__(self, root: Path):
        self.root = root

    def find(self, step: Step) -> Artefact | None:
        """Return the artefact of `step`, or None when it is missing or damaged."""
        folder = self._folder(step)
        manifest = _read_manifest(folder)
        if manifest is None or _damage(folder, manifest):
            return None
        return Artefact(folder, manifest)

    def why(self, step: Step) -> list[str]:
        """Return the named reasons for which `step` would run; none when its artefact is there."""
        folder = self._folder(step)
        if manifest := _read_manifest(folder):
            return [f"damaged: {damage}" for damage in _damage(folder, manifest)]
        if folder.exists():
            return ["damaged: manifest.json is missing or not JSON"]
        last = self._last(step)
        if last is None:
            return ["never built"]
        return [f"changed: {change}" for change in _changes(last["covers"], step.covers)]

    def build(self, step: Step, make: Callable[[Path], Mapping[str, Any]]) -> Artefact:
        """Return the artefact of `step`, made by `make(folder) -> facts` when it is not there.

        Raises StoreError when the disk is full or cannot be written; whatever `make` raises goes through. In both
        cases nothing is published and the temporary folder is removed.
        """
        temporary = self.root / "tmp" / f"{step.name}-{step.key}"
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / "locks" / f"{step.name}-{step.key}.lock"):
                if artefact := self.find(step):
                    return artefact
                try:
                    return self._make(step, temporary, make)
                finally:
                    _remove(temporary)
        except OSError as error:
            raise self._explain(step, error) from error

    def _make(self, step: Step, temporary: Path, make: Callable[[Path], Mapping[str, Any]]) -> Artefact:
        _remove(temporary)  # Left by a build that was killed: its lock is gone with it.
        temporary.mkdir(parents=True)
        begun = time.monotonic()
        facts = make(temporary)
        manifest = {
            "step": step.name,
            "model": step.model,
            "key": step.key,
            "covers": step.covers,
            "facts": facts,
            "files": {
                str(file.relative_to(temporary)): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
                for file in sorted(temporary.rglob("*"))
                if file.is_file()
            },
            "seconds": round(time.monotonic() - begun, 2),
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o444)  # Repositories hard-link here: an edit there must not reach the store.
        folder = self._folder(step)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove(folder)  # Only ever a damaged one: a whole one was found before.
        temporary.rename(folder)
        return Artefact(folder, json.loads((folder / "manifest.json").read_text()))

    def _explain(self, step: Step, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(
                f"{step.name} of {step.model}: the disk is full ({self.root}); "
                "free some space and run again, nothing half-written was left"
            )
        return StoreError(f"{step.name} of {step.model}: {error.filename or self.root}: {error.strerror or error}")

    def _folder(self, step: Step) -> Path:
        return self.root / step.name / step.key

    def _last(self, step: Step) -> Mapping[str, Any] | None:
        """The manifest of the newest other artefact of the same step and model."""
        folders = sorted((self.root / step.name).glob("*"), key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
        manifests = (_read_manifest(folder) for folder in folders)
        return next((each for each in manifests if each and each["model"] == step.model), None)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    return manifest


def _damage(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    found = []
    for name, fact in manifest["files"].items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            found.append(f"{name} is missing")
            continue
        if size != fact["bytes"]:
            found.append(f"{name} has {size} bytes, {fact['bytes']} were written")
    return found


def _changes(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Name the leaves in which two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from _changes(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield f"{key}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:20]}…"


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
