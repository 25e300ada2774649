import ctypes
import subprocess
import sys
from collections import namedtuple

import pytest

import bootstrap
from yard.checkout import ROOT

Version = namedtuple("Version", "major minor micro")


def test_this_python_is_fit() -> None:
    bootstrap.require_python()


def test_another_python_is_refused_with_the_way_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", Version(3, 12, 1))
    with pytest.raises(bootstrap.SetupError, match=r"3\.11 is needed: make setup PYTHON="):
        bootstrap.require_python()


def test_a_missing_shared_library_names_the_package_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(
        bootstrap.SetupError, match=r"libpython3\.11\.so\.1\.0 is missing.*apt-get install libpython3\.11"
    ):
        bootstrap.require_shared_library()


def test_a_failed_stage_shows_its_last_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"exit code 3:\nno such wheel"):
        bootstrap.run("weights", sys.executable, "-c", "import sys; print('no such wheel'); sys.exit(3)")
    assert capsys.readouterr().err.startswith("setup: weights ... ")


def test_make_without_python_says_what_to_install() -> None:
    argv = ["make", "--always-make", "setup", "PYTHON=no-such-python"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: no-such-python is not on PATH; install Python 3.11" in done.stderr
