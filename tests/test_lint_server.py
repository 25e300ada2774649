"""The lint's rules put to the real tritonserver: what it refuses, and what it only shows to a caller.

One server answers for nearly the whole corpus: each repository is copied in, loaded by name, unloaded and cleared.
The rules in FELLS cost the server its life or its patience and get servers of their own.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from ensembles.lint import RULES, lint
from serving.embedded import ADMIN_HEADER
from serving.ports import free_ports
from serving.server import Server

pytestmark = pytest.mark.server

CORPUS = {folder.name: folder for folder in sorted((Path(__file__).parent / "repositories").iterdir())}
# The server hangs, or falls.
FELLS = ("TY105", "TY209", "TY309")
DEADLINE_S = 20.0

# What the server says to each refusal, in its answer or in its log.
REFUSALS = {
    "TY101-unfilled-number": "Expected integer, got: \\$",
    "TY101-no-config": "failed to open text file for read .*config.pbtxt",
    "TY101-batching-on-ensemble": "another member of oneof",
    "TY102-name-of-a-copy": "directory name must equal model name",
    "TY103-no-backend": "Could not determine backend for model 'echo'",
    "TY103-platform-of-another-backend": "unexpected 'platform' and 'backend' pair",
    "TY104-no-version": "at least one version must be available under the version policy",
    "TY104-ensemble-without-version": "at least one version must be available under the version policy",
    "TY108-no-labels": "failed to open text file for read .*labels.txt",
    "TY201-no-data-type": "model input 'x' must specify 'data_type'",
    "TY202-dimension-zero": "dimension must be integer >= 1, or -1",
    "TY203-reshape-loses-elements": "has different size for dims and reshape",
    "TY205-prefers-too-much": "preferred size must be <= max batch size",
    "TY206-negative-batch": "'max_batch_size' must be non-negative",
    "TY207-decoupled-cache": "Response Cache does not currently support model echo with 'decoupled'",
    "TY207-ensemble-of-decoupled-cache": "Response Cache does not currently support model ensemble",
    "TY208-warm-up-of-another-input": "missing required input\\(s\\) \\['x'\\]",
    "TY210-gpus-on-cpu": "has kind KIND_CPU but specifies one or more GPUs",
    "TY301-no-steps": "ensemble scheduling must be set for ensemble ensemble",
    "TY302-unknown-model": "contains models that are not available or ambiguous: ecko",
    "TY303-version-left-out": "whose required version 0 is not loaded",
    "TY304-unknown-input": "is mapping to non-existing input xs in model echo",
    "TY305-input-unmapped": "input scale in model echo is not mapped to any ensemble tensors",
    "TY306-unknown-output": "is mapped from non-existing output ys in model echo",
    "TY307-never-written": "at least one of its depending tensors, 'scales', is not connected",
    "TY308-written-twice": "ensemble tensor 'y' can appear in an output map only once",
    "TY310-output-unwritten": "ensemble output 'z' for ensemble ensemble' is not used",
    "TY311-input-unread": "ensemble input 'w' for ensemble ensemble' is not used",
    "TY312-tensor-unread": "ensemble tensor 'spare' is unused",
    "TY313-steps-in-a-circle": "output 'y' for ensemble 'ensemble' is not written",
    "TY314-data-type": "ensemble tensor x: inconsistent data type",
    "TY315-shape": "ensemble tensor y: inconsistent shape",
    "TY316-larger-batch-than-step": "allows maximum batch size 8, but it contains model echo",
    "TY318-ensembles-in-a-circle": "circular dependency between ensembles",
    "TY319-both-sides-of-decoupled": "receives inputs originated from different decoupled models",
    "TY320-instances-of-ensemble": "instance group should not be specified for ensemble",
}


class Explicit:
    """A tritonserver that loads nothing but what it is told to, over a repository that tests fill and clear."""

    def __init__(self, scratch: Path) -> None:
        self.repository = scratch / "repository"
        self.repository.mkdir()
        (scratch / "no_backends").mkdir()
        extra = ("--model-control-mode=explicit", "--exit-timeout-secs=0")
        log = scratch / "tritonserver.log"
        self.server = Server(self.repository, scratch / "no_backends", free_ports(), log, extra=extra)
        # Over gRPC the server expects the header's name behind a prefix of its own.
        self._headers = {f"triton-grpc-protocol-{ADMIN_HEADER}": self.server.admin_key}

    def __enter__(self) -> "Explicit":
        self.server.start()
        self.server.wait_until_live(DEADLINE_S)
        self.client = triton.InferenceServerClient(self.server.grpc_url.removeprefix("grpc://"))
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.stop(at_once=True)

    def take(self, folder: Path) -> None:
        """Let the repository be a copy of `folder`."""
        shutil.copytree(folder, self.repository, dirs_exist_ok=True)
        self._mark = self.server.log.stat().st_size

    def load(self, model: str, timeout_s: float = DEADLINE_S) -> str:
        """Load `model` and return the server's words if it refuses, an empty string if it is READY."""
        try:
            self.client.load_model(model, headers=self._headers, client_timeout=timeout_s)
        except InferenceServerException as refusal:
            return f"{refusal} {self.server.log.read_text(errors='replace')[self._mark :]}"
        assert self.client.is_model_ready(model)
        return ""

    def clear(self) -> None:
        """Unload every model, wait until it is gone, and empty the repository."""
        deadline = time.monotonic() + DEADLINE_S
        while loaded := [name for name, state in self._states() if state in ("READY", "UNLOADING")]:
            assert time.monotonic() < deadline, f"{loaded} are still loaded"
            for name, state in self._states():
                if state == "READY":
                    self.client.unload_model(name, headers=self._headers)
            time.sleep(0.01)
        for folder in self.repository.iterdir():
            shutil.rmtree(folder)

    def _states(self) -> list[tuple[str, str]]:
        return [(model.name, model.state) for model in self.client.get_model_repository_index(self._headers).models]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explicit]:
    with Explicit(tmp_path_factory.mktemp("explicit")) as explicit:
        yield explicit


@pytest.fixture
def server(shared: Explicit) -> Iterator[Explicit]:
    yield shared
    shared.clear()


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Explicit]:
    """A server of the test's own, which may hang or fall."""
    with Explicit(tmp_path) as explicit:
        yield explicit


def ask(server: Explicit, model: str, timeout_s: float = DEADLINE_S, **tensors: np.ndarray) -> triton.InferResult:
    inputs = [triton.InferInput(name, value.shape, "FP32") for name, value in tensors.items()]
    for given, value in zip(inputs, tensors.values(), strict=True):
        given.set_data_from_numpy(value)
    return server.client.infer(model, inputs, client_timeout=timeout_s)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def of_kind(kind: str) -> list[str]:
    return [name for name in CORPUS if name[:5] in RULES and name[:5] not in FELLS and RULES[name[:5]].kind == kind]


@pytest.mark.parametrize("name", of_kind("load"))
def test_the_server_refuses_what_a_load_rule_finds(server: Explicit, name: str) -> None:
    server.take(CORPUS[name])
    for finding in lint(CORPUS[name]):
        words = server.load(finding.model)
        assert words, f"{finding} was loaded"
        # Of a circle the server names the ensemble that it meets first.
        assert finding.model == "inner" or re.search(REFUSALS[name], words), words


def ready(server: Explicit, name: str, model: str) -> None:
    """Load `model` of the repository `name`: the server must see nothing wrong with it."""
    server.take(CORPUS[name])
    assert [finding.kind for finding in lint(CORPUS[name])].count("load") == 0
    assert server.load(model) == ""


def show_ty106(server: Explicit) -> None:
    ready(server, "TY106-version-without-folder", "echo")
    assert ask(server, "echo", x=ones(3)).as_numpy("y").shape == (3,)
    with pytest.raises(InferenceServerException, match="version 2"):
        server.client.get_model_metadata("echo", "2")


def show_ty107(server: Explicit) -> None:
    ready(server, "TY107-unfilled-parameter", "echo")
    assert ask(server, "echo", x=ones(3)).as_numpy("y").tolist() == [b"${tokenizer_dir}"]


def show_ty204(server: Explicit) -> None:
    ready(server, "TY204-input-twice", "echo")
    with pytest.raises(InferenceServerException, match="expected 2 inputs but got 1"):
        ask(server, "echo", x=ones(3))


def show_ty317(server: Explicit) -> None:
    ready(server, "TY317-step-without-batching", "ensemble")
    assert ask(server, "ensemble", x=ones(1, 3)).as_numpy("y").shape == (1, 3)
    with pytest.raises(InferenceServerException, match=r"Expected \[3\], got \[2,3\]"):
        ask(server, "ensemble", x=ones(2, 3))


def show_ty321(server: Explicit) -> None:
    ready(server, "TY321-optional-feeds-required", "ensemble")
    assert ask(server, "ensemble", x=ones(3), scale=ones(3)).as_numpy("y").shape == (3,)
    with pytest.raises(InferenceServerException, match="missing required input"):
        ask(server, "ensemble", x=ones(3))


def show_ty322(server: Explicit) -> None:
    ready(server, "TY322-no-length-fits", "ensemble")
    for length in (3, 4):
        with pytest.raises(InferenceServerException, match=r"in ensemble 'ensemble', .* unexpected shape"):
            ask(server, "ensemble", x=ones(length))


HARMS: dict[str, Callable[[Explicit], None]] = {
    "TY106": show_ty106,
    "TY107": show_ty107,
    "TY204": show_ty204,
    "TY317": show_ty317,
    "TY321": show_ty321,
    "TY322": show_ty322,
}


@pytest.mark.parametrize("rule", HARMS)
def test_a_request_shows_what_a_serve_rule_finds(server: Explicit, rule: str) -> None:
    HARMS[rule](server)


def test_every_rule_is_put_to_the_server() -> None:
    asked = {name[:5] for name in REFUSALS} | HARMS.keys() | set(FELLS)
    assert asked == RULES.keys()
    assert REFUSALS.keys() == set(of_kind("load"))


@pytest.mark.parametrize("name", [name for name in CORPUS if name.startswith("TY105")])
def test_a_missing_model_file_keeps_the_server_loading_for_ever(doomed: Explicit, name: str) -> None:
    doomed.take(CORPUS[name])
    assert "Python model file not found" in doomed.load("echo", timeout_s=2.0)
    assert not doomed.client.is_model_ready("echo")


def test_a_warm_up_batch_over_the_limit_is_refused_or_crashes_the_server(doomed: Explicit) -> None:
    doomed.take(CORPUS["TY209-warm-up-batch"])
    # A race in the server decides; about every second load crashed it.
    assert re.search(r"max allowed is 0|Signal \(11\)|Socket closed|Connection re", doomed.load("echo"))


def test_a_step_that_writes_an_ensemble_input_never_answers(doomed: Explicit) -> None:
    ready(doomed, "TY309-writes-its-own-input", "ensemble")
    assert ask(doomed, "echo", x=ones(3)).as_numpy("y").shape == (3,)
    with pytest.raises(InferenceServerException, match=r"Deadline Exceeded|Socket closed|Connection"):
        ask(doomed, "ensemble", timeout_s=2.0, x=ones(3))


def test_a_valid_model_answers(server: Explicit) -> None:
    ready(server, "valid-model", "echo")
    for version in ("1", "3"):
        assert server.client.is_model_ready("echo", version)
    assert ask(server, "echo", x=ones(4, 3)).as_numpy("y").shape == (4, 3)


def test_a_valid_ensemble_answers(server: Explicit) -> None:
    ready(server, "valid-ensemble", "ensemble")
    answer = ask(server, "ensemble", x=ones(5, 3))
    assert answer.as_numpy("y").shape == answer.as_numpy("x").shape == (5, 3)
    assert server.load("reshaped") == ""
    assert ask(server, "reshaped", x=ones(3, 1)).as_numpy("y").shape == (3,)


def test_a_valid_decoupled_ensemble_streams(server: Explicit) -> None:
    ready(server, "valid-decoupled", "ensemble")
    answers: Queue[tuple[triton.InferResult | None, InferenceServerException | None]] = Queue()
    given = triton.InferInput("x", (3,), "FP32")
    given.set_data_from_numpy(ones(3))
    server.client.start_stream(callback=lambda result, error: answers.put((result, error)))
    server.client.async_stream_infer("ensemble", [given])
    for _ in range(2):
        result, error = answers.get(timeout=DEADLINE_S)
        assert result is not None, error
        assert result.as_numpy("y").shape == (3,)
    server.client.stop_stream()


def test_valid_models_of_other_backends_only_lack_the_backend(server: Explicit) -> None:
    server.take(CORPUS["valid-foreign-backends"])
    for model in sorted(folder.name for folder in CORPUS["valid-foreign-backends"].iterdir()):
        assert f"load failed for model '{model}'" in (words := server.load(model))
        assert "unable to find backend library for backend" in words
