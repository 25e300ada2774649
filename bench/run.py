"""The figures: each a ratio or a difference between two things measured in turns in one run.

make bench                # all of them, a table, and bench/results.json
make bench TASK=generate  # those of one task; the others stay as they were
"""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.table import Table

from bench import embed, generate, generator, sdk
from bench.figure import Figure, seconds
from pipeline.assemble import assemble
from pipeline.engines import Engines
from pipeline.plan import Plan
from pipeline.recipe import read_recipes
from pipeline.store import Artefact
from serving import supervisor
from serving.ports import free_ports
from serving.server import Server
from yard import checkout
from yard.console import err, out, progress

RESULTS = Path(__file__).parent / "results.json"
TASKS = ("embed", "generate", "sdk", "generator", "yard")
IDLE_MODELS = Path(__file__).parent / "models"
READY_S = 60.0
TOOLS = ("onnxruntime", "torch", "tritonclient", "sentence-transformers", "openvino-genai")


def nothing_to_do() -> Figure:
    """`yard engines` with everything built: seconds of wall time, and that torch is not imported."""
    yard = Path(sys.executable).parent / "yard"
    times = [seconds(lambda: subprocess.run([yard, "engines"], check=True, capture_output=True)) for _ in range(5)]
    code = "import sys; from yard.main import yard; yard.main(['engines'], standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules)"
    torchless = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    value = statistics.median(times)
    what = f"s, `yard engines` with nothing to do (torch {'not imported' if torchless else 'IMPORTED'})"
    return Figure("idle", what, value, min(times), max(times), "under 1.0", value < 1 and torchless, {})


def measure(tasks: tuple[str, ...], report: Callable[[str], None]) -> Iterator[tuple[str, Figure]]:
    """Take the figures of `tasks`, each over a server of its own models alone."""
    for task, figures in (("embed", embed), ("generate", generate)):
        if task in tasks:
            with alone(figures.MODEL, report) as (server, plan, artefact):
                yield from ((task, each) for each in figures.figures(server, artefact.folder, plan.folder, report))
    if "sdk" in tasks:
        for model, figure in ((embed.MODEL, sdk.of_embedding), (generate.MODEL, sdk.of_generating)):
            with alone(model, report) as (server, _, _):
                yield "sdk", figure(server, model, report)
        with TemporaryDirectory() as folder, idle(Path(folder)) as server:
            yield from (("sdk", each) for each in sdk.figures(server, report))
    if "generator" in tasks:
        yield from (("generator", each) for each in generator.figures(report))
    if "yard" in tasks:
        report("nothing to do")
        yield "yard", nothing_to_do()


@contextmanager
def alone(model: str, report: Callable[[str], None]) -> Iterator[tuple[Server, Plan, Artefact]]:
    """A server of one model, over a repository of its own, and what was built of it."""
    engines = Engines(checkout.ARTIFACTS)
    (recipe,) = read_recipes(checkout.RECIPES, "cpu", model)
    plan = engines.plan(recipe)
    artefact = engines.build(plan, report)
    with TemporaryDirectory() as name:
        repository, log = Path(name) / "repository", Path(name) / "log"
        assemble(repository, [(plan, artefact)], keep_others=False)
        server = Server(repository, checkout.BACKENDS, free_ports(), log)
        supervisor.start(server, repository, lambda _: None)
        try:
            yield server, plan, artefact
        finally:
            server.stop()


@contextmanager
def idle(folder: Path) -> Iterator[Server]:
    """A server of the models that compute nothing; its log is in `folder`."""
    with Server(IDLE_MODELS, checkout.BACKENDS, free_ports(), folder / "log") as server:
        server.wait_until_live(READY_S)
        yield server


def written(found: list[tuple[str, Figure]], tasks: tuple[str, ...]) -> dict[str, Any]:
    """Return what results.json says now: the new figures, and those of the tasks that were not measured."""
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    kept = [] if set(tasks) == set(TASKS) else json.loads(RESULTS.read_text())["figures"]
    figures = [each for each in kept if each["task"] not in tasks]
    figures += [{"task": task, **asdict(figure)} for task, figure in found]
    return {"machine": machine | {name: version(name) for name in TOOLS if is_installed(name)}, "figures": figures}


def is_installed(name: str) -> bool:
    """Tell whether the package is there: the peer of a task that was not measured may not be."""
    return any(distributions(name=name))


@click.command()
@click.argument("tasks", nargs=-1, type=click.Choice(TASKS))
def main(tasks: tuple[str, ...]) -> None:
    """Measure, print the table, write results.json."""
    tasks = tasks or TASKS
    with progress("bench") as report:
        found = list(measure(tasks, report))
    table = Table("figure", "median", "range", "target", "")
    for _, each in found:
        mark = "[green]met[/]" if each.met else "[red]missed[/]"
        table.add_row(each.what, f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}", each.target, mark)
    out.print(table)
    RESULTS.write_text(json.dumps(written(found, tasks), indent=2) + "\n")
    err.print(f"written to {checkout.shown(RESULTS)}")


if __name__ == "__main__":
    main()
