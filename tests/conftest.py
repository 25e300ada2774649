"""Shared fixtures: the checkout's own engines and one real tritonserver over them for the whole session."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from golden_server import golden_server
from hypothesis import settings

from pipeline.assemble import assemble
from pipeline.engines import Engines
from pipeline.plan import Plan
from pipeline.recipe import read_recipe, read_recipes
from pipeline.store import Artefact
from serving.server import Server
from yard.checkout import ARTIFACTS, RECIPES
from yard.main import main

# How long an example takes says how busy the machine is, and nothing of the rule.
settings.register_profile("tritonyard", deadline=None)
settings.load_profile("tritonyard")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what talks to a fake server, and what waits for a language model to be built; let the long tests begin."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "fake" in fixtures:
            # Over real sockets, at all four transports: too many for `make check`.
            item.add_marker(pytest.mark.wire)
        if {"smollm2", "openvino"} & {*fixtures} and item.get_closest_marker("build"):
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def engines() -> Engines:
    """The checkout's own store: what `make engines` built is not built again."""
    return Engines(ARTIFACTS)


@pytest.fixture(scope="session")
def minilm(engines: Engines) -> tuple[Plan, Artefact]:
    """The plan and the engine of the recipe minilm, from real weights."""
    (recipe,) = read_recipes(RECIPES, "cpu", "minilm")
    plan = engines.plan(recipe)
    return plan, engines.build(plan, lambda _: None)


@pytest.fixture(scope="session")
def smollm2(engines: Engines) -> tuple[Plan, Artefact]:
    """The plan and the engine of the recipe smollm2, from real weights."""
    (recipe,) = read_recipes(RECIPES, "cpu", "smollm2")
    plan = engines.plan(recipe)
    return plan, engines.build(plan, lambda _: None)


@pytest.fixture(scope="session")
def openvino(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Artefact]:
    """The recipe smollm2 with the other engine, built and proved."""
    text = (RECIPES / "smollm2.toml").read_text().replace('engine.cpu.speculation = "prompt_lookup"\n', "")
    file = tmp_path_factory.mktemp("recipes") / "smollm2.toml"
    file.write_text(text.replace('engine.cpu.precision = "int8"', 'engine.cpu.kind = "openvino"'))
    plan = engines.plan(read_recipe(file))
    return plan, engines.build(plan, lambda _: None)


@pytest.fixture(scope="session")
def repository(
    minilm: tuple[Plan, Artefact], smollm2: tuple[Plan, Artefact], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A freshly assembled repository that serves minilm and smollm2."""
    target = tmp_path_factory.mktemp("repository") / "cpu"
    assemble(target, [minilm, smollm2], keep_others=False)
    return target


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real tritonserver over `repository` that has answered its golden request."""
    log = tmp_path_factory.mktemp("logs") / "tritonserver.log"
    with golden_server(repository, log) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def fake(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fake server of the clients, by protocol."""
    from client_kinds import FAKES

    with FAKES[request.param]() as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    """A class of client."""
    from client_kinds import CLIENTS

    return CLIENTS[request.param]


@pytest.fixture
def client(fake: Any, kind: Any) -> Iterator[Any]:
    """A client of the fake server."""
    with kind(fake.url, model="minilm", timeout=10) as calling:
        yield calling


@pytest.fixture
def yard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls `yard` with arguments in this process; returns exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["yard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return call
