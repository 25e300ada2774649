"""`yard capacity`: a scenario at one load after another -> the highest at which its SLA is kept."""

import math
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.table import Table

from ensembles.errors import YardError
from loadtests.judging.capacity import Capacity, Span, Trial, deciding, following, lengthened, worded
from loadtests.reports.capacity_page import Search, write_search
from loadtests.traffic.load import at, key_of, load_of, to_toml
from loadtests.traffic.request import EmbedRequest
from loadtests.traffic.scenario import Scenario, load, locate
from pipeline.recipe import Profile
from serving.errors import ServingError
from yard.checkout import shown
from yard.connection import connected
from yard.console import OUTCOME_STYLES, out, say
from yard.target import Target, aimed, measured, target_options

# From an eighth of the scenario's own load to 64 times that; a trace that goes faster is shorter.
LESS, MORE, FASTER = 8, 64, 8
# What a server may take to work off the queue that a trial has left.
DRAIN_S = 60.0
RETRY_S = 1.0


def _a_load(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{value:g} is no load; give a number above 0")
    return value


@click.command()
@click.argument("scenario", default="embed_smoke")
@click.option(
    "--least", type=float, callback=_a_load, help="The lowest load of interest; an eighth of the scenario's own."
)
@click.option(
    "--most",
    type=float,
    callback=_a_load,
    help="The highest load of interest; 64 times the scenario's own, of a trace 8 times.",
)
@target_options
def capacity(
    scenario: str,
    least: float | None,
    most: float | None,
    url: str | None,
    metrics_url: str | None,
    workers: int,
    runs: Path,
    profile: Profile,
) -> None:
    """Find the highest load at which SCENARIO passes: its rate, its users, or the speed of its trace.

    Every trial is a run of its own, which stays. A load is named only if it passed 3 of at most 4 trials.

    Exit code 0 a capacity was found, 1 not even the least load passes, 3 nothing could be concluded.

    \b
    Example: yard capacity embed_smoke --most 100
    """
    file = locate(scenario)
    wanted = load(file)  # a mistake in it is said before a server is started
    span = _span(wanted, least, most)
    with aimed(url, metrics_url, workers, profile) as target:
        search = _search(wanted, file.stem, span, target, runs)
    _show(search)
    say(f"the search on a page: {shown(write_search(search, runs))}")
    sys.exit(search.capacity.exit_code)


def _span(scenario: Scenario, least: float | None, most: float | None) -> Span:
    """Where to look. Raises ScenarioError: of a trace at the highest speed nothing is left to judge."""
    own, key = load_of(scenario), key_of(scenario)
    whole = key == "users"
    for option, value in (("--least", least), ("--most", most)):
        if whole and value is not None and value != int(value):
            raise click.UsageError(f"{option} {value:g} is no number of users; give a whole number")
    low = least or (max(own // LESS, 1.0) if whole else own / LESS)
    high = most or own * (FASTER if key == "speedup" else MORE)
    if low > high:
        raise click.UsageError(f"the least load {low:g} is above the most, {high:g}; lower --least or raise --most")
    if key == "speedup":
        at(scenario, high).schedule()
    return Span(low, high, min(max(own, low), high), whole)


def _search(scenario: Scenario, name: str, span: Span, target: Target, runs: Path) -> Search:
    key, trials = key_of(scenario), list[Trial]()
    say(f"capacity of {name}: {worded(span.start, key)} first, then between {span.least:g} and {span.most:g}")
    _ask(scenario, target.url)
    with tempfile.TemporaryDirectory() as folder:
        while not isinstance(step := following(trials, span), Capacity):
            draw = sum(trial.load == step for trial in trials)
            file = Path(folder) / f"{name}-{step:g}.toml"
            file.write_text(to_toml(at(scenario, step, draw, lengthened(trials, step))), encoding="utf-8")
            directory, verdict, _ = measured(file, target, runs, worded(step, key))
            trials.append(Trial(step, verdict, directory.name))
            style = OUTCOME_STYLES[verdict.outcome]
            out.print(f"{worded(step, key)}: [{style}]{verdict.outcome}[/]", end=", ")
            say(deciding(verdict))
            _drain(scenario, target.url, worded(step, key))
    return Search(scenario, name, trials, step)


def _drain(scenario: Scenario, url: str, words: str) -> None:
    """Wait until the server answers again: a queue that a trial has left must not be the next one's."""
    begun = time.monotonic()
    while True:
        try:
            return _ask(scenario, url)
        except YardError as error:
            if time.monotonic() - begun > DRAIN_S:
                raise ServingError(
                    f"the server at {url} has not answered for {DRAIN_S:.0f} s since the trial at {words}: {error}; "
                    "see its log; the trials so far are kept"
                ) from error
        time.sleep(RETRY_S)


def _ask(scenario: Scenario, url: str) -> None:
    """Have one small request of each kind answered. Raises YardError."""
    with connected(url, timeout=scenario.timeout_s) as client:
        for share in scenario.shares:
            model = share.request.model
            if isinstance(share.request, EmbedRequest):
                client.embed("Are you there?", model=model)
            else:
                client.chat([{"role": "user", "content": "Are you there?"}], model=model, max_tokens=1)


def _show(search: Search) -> None:
    """Print the trials by their load, and the answer."""
    table = Table(search.key, "", *search.measures, "run")
    for trial, values in search.table():
        style = OUTCOME_STYLES[trial.verdict.outcome]
        table.add_row(f"{trial.load:g}", f"[{style}]{trial.verdict.outcome}[/]", *values, trial.run)
    out.print(table)
    say(search.sentence)
