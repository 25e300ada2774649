from pathlib import Path

import pytest

from pipeline.exchange import exchange


def test_two_folders_change_places(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(tmp_path / "old", tmp_path / "new")
    assert [file.name for file in (tmp_path / "old").iterdir()] == ["new"]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["old"]


def test_a_missing_side_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "old", tmp_path / "new")
