import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Step, Store, StoreError


def step(**covers: Any) -> Step:
    return Step("engine", "minilm", {"checkpoint": "sha256:1", "tools": {"torch": "2.13.0"}, **covers})


def make(out: Path) -> dict[str, Any]:
    (out / "model.onnx").write_bytes(b"weights")
    return {"parity": 1.0}


def refuse(out: Path) -> dict[str, Any]:
    raise AssertionError("must not be built again")


def leftovers(root: Path) -> list[Path]:
    return list((root / "tmp").glob("*"))


def test_an_artefact_is_built_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.why(step()) == ["never built"]
    built = store.build(step(), make)
    assert built.facts == {"parity": 1.0}
    assert (built.folder / "model.onnx").read_bytes() == b"weights"
    again = store.build(step(), refuse)
    assert again == built
    assert store.why(step()) == []
    assert leftovers(tmp_path) == []


def test_the_manifest_holds_everything_the_key_covers(tmp_path: Path) -> None:
    built = Store(tmp_path).build(step(precision="int8"), make)
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert built.folder == tmp_path / "engine" / manifest["key"]
    assert manifest["covers"] == {"checkpoint": "sha256:1", "tools": {"torch": "2.13.0"}, "precision": "int8"}
    assert manifest["files"]["model.onnx"]["bytes"] == 7


@pytest.mark.parametrize(
    ("covers", "reason"),
    [
        ({"checkpoint": "sha256:2"}, "changed: checkpoint: sha256:1 -> sha256:2"),
        ({"tools": {"torch": "2.14.0"}}, "changed: tools.torch: 2.13.0 -> 2.14.0"),
        ({"precision": "int8"}, "changed: precision: None -> int8"),
    ],
)
def test_why_names_what_changed(tmp_path: Path, covers: dict[str, Any], reason: str) -> None:
    store = Store(tmp_path)
    store.build(step(), make)
    assert store.why(step(**covers)) == [reason]


def test_another_models_artefact_is_no_reason(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.build(step(), make)
    assert store.why(Step("engine", "other", {"checkpoint": "sha256:2"})) == ["never built"]


@pytest.mark.parametrize("damage", ["gone", "short", "manifest"])
def test_a_damaged_artefact_is_named_and_built_again(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    folder = store.build(step(), make).folder
    file = folder / ("manifest.json" if damage == "manifest" else "model.onnx")
    file.chmod(0o644)
    file.unlink() if damage == "gone" else file.write_bytes(b"we")
    assert store.find(step()) is None
    (reason,) = store.why(step())
    assert reason.startswith("damaged: ")
    assert (store.build(step(), make).folder / "model.onnx").read_bytes() == b"weights"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Path) -> dict[str, Any]:
        make(out)
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        Store(tmp_path).build(step(), fail)
    assert leftovers(tmp_path) == []
    assert list((tmp_path / "engine").glob("*")) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(out: Path) -> dict[str, Any]:
        make(out)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).build(step(), interrupted)
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    def full(out: Path) -> dict[str, Any]:
        make(out)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match=r"the disk is full .* free some space"):
        Store(tmp_path).build(step(), full)
    assert leftovers(tmp_path) == []


def test_published_files_are_read_only(tmp_path: Path) -> None:
    folder = Store(tmp_path).build(step(), make).folder
    assert all(file.stat().st_mode & 0o222 == 0 for file in folder.iterdir())


def slow(out: Path) -> dict[str, Any]:
    (out / "model.onnx").write_bytes(b"wei")
    (out.parents[1] / "begun").touch()
    time.sleep(60)
    return {}


def build_slowly(root: Path) -> None:
    Store(root).build(step(), slow)


def test_a_killed_build_leaves_no_artefact_and_the_next_one_succeeds(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=build_slowly, args=(tmp_path,))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store = Store(tmp_path)
    assert store.find(step()) is None
    assert (store.build(step(), make).folder / "model.onnx").read_bytes() == b"weights"
    assert leftovers(tmp_path) == []


def count_builds(root: Path) -> None:
    def counted(out: Path) -> dict[str, Any]:
        with (root / "count").open("a") as count:
            count.write("x")
        time.sleep(0.2)
        return make(out)

    Store(root).build(step(), counted)


def test_two_builds_at_once_make_one_artefact(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count_builds, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "count").read_text() == "x"
    assert Store(tmp_path).find(step())
