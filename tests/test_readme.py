"""The README's code is run as it stands, in a copy of the checkout, against real servers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tiny import write_encoder

from serving.embedded import Ports
from serving.errors import ServingError
from serving.ports import require_free
from serving.server import Server
from yard.checkout import ROOT

README = (ROOT / "README.md").read_text()
# Run by who runs this test, and not by it.
NOT_HERE = {"make test", "make check"}
BUILT = (".venv", ".artifacts", ".git", "runs", "__pycache__", "*_cache", ".hypothesis")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line not in NOT_HERE]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, minilm: object, smollm2: object) -> Path:
    """A copy of this checkout as a newcomer has it after `make setup`, with an encoder of their own beside it."""
    copy = tmp_path_factory.mktemp("readme") / "tritonyard"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*BUILT))
    shutil.copytree(ROOT / ".artifacts", copy / ".artifacts", ignore=shutil.ignore_patterns("logs", "tmp"))
    (copy / ".venv").symlink_to(sys.prefix)
    write_encoder(copy / "my-encoder", "bert", normalize=True)
    return copy


@pytest.fixture
def environment(checkout: Path) -> dict[str, str]:
    """The copy's own packages, and the environment's commands on PATH, as an activated .venv has them."""
    sources = os.pathsep.join(str(checkout / part) for part in ("", "build", "clients"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # The environment is shared with this checkout: the copy must not set it up again, and thereby move it.
    return {
        **os.environ,
        "PYTHONPATH": sources,
        "PATH": path,
        "MAKEFLAGS": "--old-file=.venv/.ready --no-print-directory",
    }


def test_there_is_code_to_run() -> None:
    assert "make demo" in commands()
    assert len(blocks("python")) == 1


@pytest.mark.server
@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_command_of_the_readme_works_in_its_order(checkout: Path, environment: dict[str, str]) -> None:
    for command in commands():
        if command == "make serve":
            # The README's ports are the default ones; where somebody holds them, this one command is left out.
            with suppress(ServingError):
                require_free(Ports())
                serve_until_ready(checkout, environment)
            continue
        done = subprocess.run(
            command, shell=True, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        said = f"{command}\n{done.stdout}\n{done.stderr}"
        # A busy machine may leave the SLA undecided; that is an answer, and not a pass.
        undecided = command in ("make demo", "make loadtest") and "INCONCLUSIVE" in done.stdout
        assert done.returncode == 0 or undecided, said
    recipe = (checkout / "build" / "recipes" / "reviews.toml").read_text()
    assert len(recipe.splitlines()) <= 12
    models = {folder.name for folder in (checkout / "model_repository" / "cpu").iterdir()}
    assert {"minilm", "reviews", "reviews_encoder"} <= models
    compared = json.loads((checkout / ".artifacts" / "compare" / "smollm2.json").read_text())
    # Its checkpoint was quantised before: int4 would do it twice.
    assert [row["precision"] for row in compared if row["misses"]] == ["int4"]


def serve_until_ready(checkout: Path, environment: dict[str, str]) -> None:
    """Run `make serve` as it stands, on its default ports, and end it as Ctrl-C in a terminal does."""
    with subprocess.Popen(
        ["make", "serve"], cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("ready: grpc://127.0.0.1:8001")
        os.killpg(process.pid, signal.SIGINT)
        assert "stopped" in process.stdout.read()


@pytest.fixture
def python_block(server: Server) -> str:
    """The README's Python, aimed at the test's own server."""
    (code,) = blocks("python")
    assert "grpc://127.0.0.1:8001" in code
    return code.replace("grpc://127.0.0.1:8001", server.grpc_url)


@pytest.mark.server
def test_the_python_of_the_readme_works(python_block: str) -> None:
    done = subprocess.run([sys.executable, "-c", python_block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(3, 384)")
