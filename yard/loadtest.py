"""`yard loadtest`: a scenario against a server -> the SLA's verdict."""

import sys
from pathlib import Path

import click

from loadtests.judging.verdict import Verdict
from loadtests.reports.page import PAGE
from loadtests.traffic.scenario import load, locate
from pipeline.recipe import Profile
from yard.checkout import shown
from yard.console import say
from yard.target import Target, aimed, measured, target_options
from yard.verdict import show


@click.command()
@click.argument("scenario", default="embed_smoke")
@target_options
def loadtest(
    scenario: str, url: str | None, metrics_url: str | None, workers: int, runs: Path, profile: Profile
) -> None:
    """Run SCENARIO (a name in loadtests/scenarios, or a TOML file) and judge it by its SLA.

    Exit code 0 PASS, 1 FAIL, 3 INCONCLUSIVE.

    \b
    Example: yard loadtest embed_smoke --url grpc://127.0.0.1:8001
    """
    file = locate(scenario)
    load(file)  # a mistake in it is said before a server is started
    with aimed(url, metrics_url, workers, profile) as target:
        verdict = judge(file, target, runs)
    sys.exit(verdict.exit_code)


def judge(file: Path, target: Target, runs: Path) -> Verdict:
    """Run the scenario in `file`, and print its verdict and what the server told of itself."""
    directory, verdict, server = measured(file, target, runs, f"loadtest {file.stem}")
    show(verdict, server)
    say(f"samples, verdict and its page: {shown(directory / PAGE)}")
    return verdict
