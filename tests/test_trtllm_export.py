"""`yard convert`: a folder that is whole or not there, its manifest, and sentences for what goes wrong."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from trtllm_checkpoints import config_of, random_tensors, shapes_of, write_checkpoint

import yard.convert
from ensembles.errors import YardError
from pipeline.checkpoint import CheckpointError
from pipeline.fingerprint import FileDigests
from pipeline.store import StoreError
from pipeline.tensorrt_llm.export import export
from pipeline.tensorrt_llm.split import Split


@pytest.fixture
def source(tmp_path: Path) -> Path:
    config = config_of("llama")
    return write_checkpoint(tmp_path / "source", config, random_tensors(shapes_of(config)), shards=2)


@pytest.fixture
def digests(tmp_path: Path) -> FileDigests:
    return FileDigests(tmp_path / "digests.json")


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def test_the_manifest_says_what_it_was_made_of_and_what_was_written(
    tmp_path: Path, source: Path, digests: FileDigests
) -> None:
    out = tmp_path / "deep" / "out"
    made = export(source, out, Split(2, 2, "bfloat16", None), digests, quiet)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == made.manifest
    assert not made.unchanged
    assert manifest["source"]["digest"].startswith("sha256:")
    assert manifest["source"]["files"] == {file.name: file.stat().st_size for file in source.iterdir()}
    assert [manifest[key] for key in ("tp", "pp", "dtype", "quantisation")] == [2, 2, "bfloat16", None]
    assert list(manifest["files"]) == ["config.json", *(f"rank{rank}.safetensors" for rank in range(4))]
    for name, fact in manifest["files"].items():
        data = (out / name).read_bytes()
        assert fact == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert {file.name for file in out.iterdir()} == {"manifest.json", *manifest["files"]}
    assert [each.name for each in out.parent.iterdir()] == ["out"]


def test_the_same_again_is_left_alone(tmp_path: Path, source: Path, digests: FileDigests) -> None:
    out = tmp_path / "out"
    first = export(source, out, Split(), digests, quiet)
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    again = export(source, out, Split(), digests, quiet)
    assert again.unchanged
    assert again.manifest == first.manifest
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before


def another_split(source: Path, out: Path) -> Split:
    return Split(dtype="bfloat16")


def another_source(source: Path, out: Path) -> Split:
    config = config_of("llama")
    tensors = {name: array * 2 for name, array in random_tensors(shapes_of(config)).items()}
    write_checkpoint(source, config, tensors, shards=2)  # as long as before, to the byte
    return Split()


def damaged(source: Path, out: Path) -> Split:
    (out / "rank0.safetensors").write_bytes(b"")
    return Split()


def no_manifest(source: Path, out: Path) -> Split:
    (out / "manifest.json").unlink()
    return Split()


@pytest.mark.parametrize("change", [another_split, another_source, damaged, no_manifest])
def test_a_folder_that_is_something_else_is_never_overwritten(
    tmp_path: Path, source: Path, digests: FileDigests, change: Any
) -> None:
    out = tmp_path / "out"
    export(source, out, Split(), digests, quiet)
    split = change(source, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(StoreError, match="is there already, and is not this checkpoint"):
        export(source, out, split, digests, quiet)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.parametrize("line", ["tensor 0 of", "tensor 29 of", "reading the digests of what"])
def test_an_interrupt_leaves_nothing(tmp_path: Path, source: Path, digests: FileDigests, line: str) -> None:
    def interrupt(stage: str) -> None:
        if stage.startswith(line):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(source, tmp_path / "made" / "out", Split(), digests, interrupt)
    assert list((tmp_path / "made").iterdir()) == []


def test_a_full_disk_is_known_at_once_and_leaves_nothing(
    tmp_path: Path, source: Path, digests: FileDigests, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, begin: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    stages: list[str] = []
    with pytest.raises(StoreError, match="out: No space left on device; nothing half-written was left"):
        export(source, tmp_path / "made" / "out", Split(), digests, stages.append)
    assert not [stage for stage in stages if stage.startswith("tensor")]
    assert list((tmp_path / "made").iterdir()) == []


def test_what_is_refused_is_refused_before_the_weights_are_read(
    tmp_path: Path, source: Path, digests: FileDigests
) -> None:
    stages: list[str] = []
    with pytest.raises(CheckpointError, match="tp 3 does not divide"):
        export(source, tmp_path / "out", Split(tp=3), digests, stages.append)
    assert stages == []


def test_a_gguf_file_is_sent_the_other_way(tmp_path: Path, digests: FileDigests) -> None:
    with pytest.raises(CheckpointError, match=r"model\.gguf is a \.gguf file; .* `yard init .*model\.gguf`"):
        export(tmp_path / "model.gguf", tmp_path / "out", Split(), digests, quiet)


def call(*arguments: object) -> str:
    done = CliRunner().invoke(yard.convert.convert, [str(argument) for argument in arguments])
    if isinstance(done.exception, YardError):
        return str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output


def test_the_command(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yard.convert, "ARTIFACTS", tmp_path)
    out = tmp_path / "out"
    options = ("--tp", 2, "--pp", 3, "--dtype", "float16")
    said = call(source, out, *options)
    assert f"written: tp 2, pp 3, float16, 0.00 GB ({out})" in said
    assert "tensor 0 of 30" in said
    assert json.loads((out / "config.json").read_text())["mapping"]["world_size"] == 6
    assert "unchanged: tp 2, pp 3" in call(source, out, *options)
    assert "is there already" in call(source, out, "--tp", 2)
    assert "not a folder" in call(tmp_path / "nowhere", tmp_path / "other")
    assert "needs a multiple of 64" in call(source, tmp_path / "other", "--quantisation", "w4a16")
    assert not (tmp_path / "other").exists()
