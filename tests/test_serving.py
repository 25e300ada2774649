"""How a server starts, fails, dies and ends: always the real one, always gone afterwards."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from golden_server import golden_server

from pipeline.assemble import assemble
from pipeline.plan import Plan
from pipeline.store import Artefact
from serving import container, embedded, preflight, supervisor
from serving.embedded import Ports
from serving.errors import ServingError
from serving.golden import require_golden
from serving.ports import free_ports, require_free
from serving.server import Server
from tritonyard import Client, TritonyardError
from yard.checkout import BACKENDS, ROOT

READY_S = 60.0
MODELS = Path("model_repository", "cpu")


def remnants(folder: Path) -> set[str]:
    """All that servers with their scratch folders in `folder` could leave behind, and segments that nobody owns."""
    lines = {each.pid: " ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])}
    found = {str(scratch) for scratch in folder.glob("tritonyard-*")}
    found |= {f"{pid} {line}" for pid, line in lines.items() if str(folder / "tritonyard-") in line}
    for segment in Path("/dev/shm").glob("tritonyard-*"):
        # A keeper names the prefix of its segments: those of somebody else's server are not ours.
        prefix = f"--shm-prefix={segment.name[: len('tritonyard-') + 8]}_"
        if not any(prefix in line for line in lines.values()):
            found.add(str(segment))
    return found


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold that the servers which a test starts leave nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = remnants(tmp_path)
    yield
    deadline = time.monotonic() + 10
    while remnants(tmp_path) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert remnants(tmp_path) - before == set()


@contextmanager
def holding(port: int) -> Iterator[None]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield


def test_a_taken_port_is_named_with_its_holder() -> None:
    ports = free_ports()
    require_free(ports)
    with (
        holding(ports.grpc),
        pytest.raises(ServingError, match=rf"grpc port {ports.grpc} cannot be used.*--grpc-port") as caught,
    ):
        require_free(ports)
    assert f"process {os.getpid()}" in str(caught.value)
    assert caught.value.exit_code == 4


def test_this_machine_is_fit() -> None:
    assert [check for check in preflight.machine_checks() if not check.well] == []


@pytest.mark.parametrize("content", [None, "empty"])
def test_a_missing_repository_is_named(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "cpu").mkdir()
    with pytest.raises(ServingError, match="holds no model; run `yard repository`"):
        preflight.require_repository(tmp_path / "cpu")


def test_a_repository_that_would_not_serve_is_refused_before_the_start(tmp_path: Path) -> None:
    repository = shutil.copytree(ROOT / "tests" / "repositories" / "valid-ensemble", tmp_path / "cpu")
    next(repository.glob("*/1/model.py")).unlink()
    with pytest.raises(ServingError, match="TY105"):
        preflight.require_repository(repository)


def test_loopback_and_restricted_endpoints_are_the_default() -> None:
    argv = embedded.command(Path("models"), Path("scratch"), Ports(), "KEY")
    assert {"--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"} <= set(argv)
    assert "--disable-auto-complete-config" in argv
    assert any("shared-memory" in word and word.startswith("--grpc-restricted-protocol") for word in argv)
    assert any("model-repository" in word and word.startswith("--http-restricted-api") for word in argv)


def test_the_container_runs_nvidias_backend_and_ours() -> None:
    argv = container.run_command(Path("models"), BACKENDS, Ports(9000, 9001, 9002), "name", "KEY", "2g")
    line = " ".join(argv)
    assert "--shm-size=2g" in argv
    assert "--publish=127.0.0.1:9001:8001" in argv
    assert "/opt/tritonserver/backends/tokenizer:ro" in line
    assert "/opt/tritonserver/backends/pooler:ro" in line
    assert "backends/onnxruntime" not in line
    assert container.DOCKERFILE.exists()


@pytest.mark.server
def test_restricted_endpoints_are_closed(server: Server) -> None:
    address = urlsplit(server.http_url)
    for method, path in [
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/logging"),
    ]:
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        connection.request(method, path)
        assert connection.getresponse().status == 403, path
        connection.close()


@pytest.fixture(scope="module")
def checkout(minilm: tuple[Plan, Artefact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that serves minilm."""
    folder = tmp_path_factory.mktemp("checkout")
    assemble(folder / MODELS, [minilm], keep_others=False)
    return folder


@pytest.mark.server
@pytest.mark.usefixtures("nothing_left")
def test_a_model_that_fails_to_load_is_a_sentence(checkout: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(checkout / MODELS, tmp_path / "cpu"))
    (broken / "minilm_encoder" / "1" / "model.onnx").unlink()
    (broken / "minilm_encoder" / "1" / "model.onnx").write_bytes(b"not an engine")
    server = Server(broken, BACKENDS, free_ports(), tmp_path / "log")
    with (
        pytest.raises(ServingError, match=r"model 'minilm_encoder' failed to load: .*Protobuf") as caught,
    ):
        supervisor.start(server, broken, lambda _: None)
    assert str(tmp_path / "log") in str(caught.value)


@pytest.mark.server
@pytest.mark.usefixtures("nothing_left")
def test_a_wrong_answer_is_not_ready(checkout: Path, tmp_path: Path) -> None:
    wrong = Path(shutil.copytree(checkout / MODELS, tmp_path / "cpu"))
    golden = wrong / "minilm" / "1" / "golden.json"
    text = golden.read_text()
    golden.unlink()
    golden.write_text(text.replace('"Yes."', '"No, thank you."'))
    server = Server(wrong, BACKENDS, free_ports(), tmp_path / "log")
    with pytest.raises(ServingError, match="answers its golden request wrong: cosine 0"):
        supervisor.start(server, wrong, lambda _: None)


# `yard serve` in a checkout of its own, the folder that comes first.
SERVE = """
import sys
from pathlib import Path
from yard import checkout
checkout.ROOT = Path(sys.argv.pop(1))
checkout.ARTIFACTS = checkout.ROOT / ".artifacts"
from yard.main import main
main()
"""


@contextmanager
def served(checkout: Path, ports: Ports) -> Iterator["subprocess.Popen[str]"]:
    """`yard serve` in `checkout`, ready; what still runs in the end is killed."""
    flags = [f"--{use}-port={port}" for use, port in vars(ports).items()]
    words = [sys.executable, "-c", SERVE, checkout, "serve", *flags]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    try:
        assert process.stdout.readline().startswith(f"ready: grpc://127.0.0.1:{ports.grpc}")
        assert process.stdout.readline() == "stop with Ctrl-C\n"
        yield process
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            # Its keeper alone would give the server seconds to unload its models.
            next(each for each in family if each.name() == "tritonserver").kill()
        process.wait(20)
        process.stdout.close()


@pytest.mark.server
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("victim", ["tritonserver", "keeper.py", "minilm_encoder", "minilm_tokenizer"])
def test_a_death_in_the_middle_of_requests_is_an_error_and_the_server_comes_back(checkout: Path, victim: str) -> None:
    ports = free_ports()
    failures: list[BaseException] = []
    stop = threading.Event()

    def call() -> None:
        with Client(f"grpc://127.0.0.1:{ports.grpc}", model="minilm", timeout=10) as client:
            while not stop.is_set():
                try:
                    assert client.embed(["in the middle"]).shape == (1, 384)
                except Exception as error:
                    failures.append(error)
                    time.sleep(0.05)

    with served(checkout, ports) as process:
        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        time.sleep(0.5)
        family = psutil.Process(process.pid).children(recursive=True)
        next(each for each in family if victim in process_line(each)).kill()
        assert process.stdout
        assert process.stdout.readline().endswith("starting the server again\n")
        assert process.stdout.readline() == "ready again\n"
        stop.set()
        for caller in callers:
            caller.join(15)
            assert not caller.is_alive()
        require_golden(f"grpc://127.0.0.1:{ports.grpc}", checkout / MODELS, READY_S)
    assert failures
    assert [failure for failure in failures if not isinstance(failure, TritonyardError)] == []


def process_line(process: psutil.Process) -> str:
    """The name of the server, the script of the keeper, the command line of a stub, which names its model."""
    if process.name() == "tritonserver":
        return "tritonserver"
    return " ".join(process.cmdline()[1:2] if "keeper.py" in process.cmdline()[1] else process.cmdline()[1:])


@pytest.mark.server
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_yard_ends_nothing_of_the_server_is_left(checkout: Path, number: signal.Signals) -> None:
    """SIGKILL gives `yard` no chance to clean up: its keeper does."""
    with served(checkout, free_ports()) as process:
        process.send_signal(number)
        code = process.wait(20)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)


@pytest.mark.server
@pytest.mark.usefixtures("nothing_left")
def test_two_servers_run_side_by_side(server: Server, repository: Path, checkout: Path, tmp_path: Path) -> None:
    with golden_server(checkout / MODELS, tmp_path / "log"):
        require_golden(server.grpc_url, repository, READY_S)
