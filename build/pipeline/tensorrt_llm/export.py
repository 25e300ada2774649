"""A TensorRT-LLM checkpoint, converted or quantised, as a folder with a manifest: whole, or not there at all."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint import GGUF, CheckpointError, checkpoint_digest, checkpoint_files
from pipeline.fingerprint import FileDigests, file_digest
from pipeline.store import Report, StoreError
from pipeline.tensorrt_llm.convert import convert, read_plan
from pipeline.tensorrt_llm.quantise import quantise, require_modelopt, require_quantisable
from pipeline.tensorrt_llm.settings import Settings
from pipeline.tensorrt_llm.split import Split

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Export:
    """A checkpoint in `folder`; `unchanged` when it was there already, made of the same files in the same way."""

    folder: Path
    manifest: Mapping[str, Any]
    unchanged: bool


def write_checkpoint(source: Path, out: Path, settings: Settings, report: Report) -> Mapping[str, Any]:
    """Write the Hugging Face folder `source` into the empty folder `out` as `settings` say; return the facts.

    Raises what `convert` and `quantise` raise.
    """
    if isinstance(settings, Split):
        return convert(source, out, settings, report)
    return quantise(source, out, settings, report)


def export(source: Path, out: Path, settings: Settings, digests: FileDigests, report: Report) -> Export:
    """Convert or quantise the Hugging Face folder `source` into the new folder `out`.

    The manifest holds {source: {digest, files: {name: bytes}}, the settings, files: {name: {bytes, sha256}}}. Whatever
    interrupts it, `out` is not there, nor anything half-written.

    Raises CheckpointError as `write_checkpoint` does, and for a GGUF file. StoreError: `out` is something else already,
    or its disk is full.
    """
    if source.suffix == GGUF:
        raise CheckpointError(
            f"checkpoint {source} is a {GGUF} file; only a Hugging Face folder is converted. Declare a recipe with "
            f"`yard init {source}`: `yard engines` goes through such a folder"
        )
    # What is refused, is refused before gigabytes are read for their digest.
    if isinstance(settings, Split):
        read_plan(source, settings)
    else:
        require_quantisable(source, settings)
        require_modelopt()
    report("reading the checkpoint's digest")
    made_of = {
        "source": {
            "digest": checkpoint_digest(source, digests),
            "files": {str(file.relative_to(source)): file.stat().st_size for file in checkpoint_files(source)},
        },
        **asdict(settings),
    }
    if found := _found(out, made_of):
        return Export(out, found, unchanged=True)
    try:
        return Export(out, _write(source, out, settings, made_of, report), unchanged=False)
    except OSError as error:
        raise StoreError(
            f"checkpoint folder {out}: {error.strerror or error}; nothing half-written was left"
        ) from error


def _found(out: Path, made_of: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the manifest of the same checkpoint in `out`, None where nothing is.

    Raises StoreError: something else is there.
    """
    if not out.exists():
        return None
    try:
        manifest: Mapping[str, Any] = json.loads((out / MANIFEST).read_text())
        same = {key: manifest[key] for key in made_of} == made_of
        whole = all((out / name).stat().st_size == fact["bytes"] for name, fact in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        same = whole = False
    if not (same and whole):
        raise StoreError(f"{out} is there already, and is not this checkpoint; remove it, or choose another folder")
    return manifest


def _write(
    source: Path, out: Path, settings: Settings, made_of: Mapping[str, Any], report: Report
) -> Mapping[str, Any]:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        write_checkpoint(source, temporary, settings, report)
        report("reading the digests of what was written")
        written = {
            file.name: {"bytes": file.stat().st_size, "sha256": file_digest(file)}
            for file in sorted(temporary.iterdir())
        }
        manifest = {**made_of, "files": written}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        temporary.chmod(0o755)  # mkdtemp's is for its owner alone
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest
