import hashlib
import os
from pathlib import Path

import pytest

from pipeline import fingerprint
from pipeline.fingerprint import FileDigests, digest, tool_versions


def test_digests_are_of_the_content() -> None:
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_tool_versions_without_imports() -> None:
    assert tool_versions(["numpy", "no-such-package"]) == {"numpy": "1.26.4", "no-such-package": "absent"}


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, memory = tmp_path / "weights", tmp_path / "memory.json"
    file.write_bytes(b"one")
    want = hashlib.sha256(b"one").hexdigest()
    assert FileDigests(memory).of(file) == want

    reads: list[Path] = []
    real = fingerprint.file_digest
    monkeypatch.setattr(fingerprint, "file_digest", lambda each: reads.append(each) or real(each))
    digests = FileDigests(memory)
    assert digests.of(file) == want
    assert reads == []
    assert digests.of(file, fresh=True) == want
    assert len(reads) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert digests.of(file) == hashlib.sha256(b"two").hexdigest()


def test_a_broken_memory_is_only_forgotten(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / "memory.json"
    file.write_bytes(b"one")
    memory.write_text("{half")
    assert FileDigests(memory).of(file) == hashlib.sha256(b"one").hexdigest()
