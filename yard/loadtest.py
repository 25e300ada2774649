"""`yard loadtest`: a scenario against a server -> the SLA's verdict."""

import sys
from pathlib import Path

import click

from loadtests.page import write_page
from loadtests.report import judge_run, write_verdict
from loadtests.run import run
from loadtests.scenario import load, locate
from loadtests.verdict import Verdict
from yard.checkout import RUNS, profile_option, shown
from yard.console import progress, say
from yard.serve import own_server, running
from yard.verdict import show


@click.command()
@click.argument("scenario", default="embed_smoke")
@click.option("--url", help="A running server, grpc://host:port; without it one is started for the run.")
@click.option("--out", "runs", type=click.Path(file_okay=False, path_type=Path), default=RUNS, help="Where runs go.")
@profile_option
def loadtest(scenario: str, url: str | None, runs: Path, profile: str) -> None:
    """Run SCENARIO (a name in loadtests/scenarios, or a TOML file) and judge it by its SLA.

    Exit code 0 PASS, 1 FAIL, 3 INCONCLUSIVE.

    \b
    Example: yard loadtest embed_smoke --url grpc://127.0.0.1:8001
    """
    file = locate(scenario)
    load(file)  # a mistake in it is said before a server is started
    if url:
        verdict = judge(file, url, runs)
    else:
        with running(own_server(profile), profile) as own:
            verdict = judge(file, own.grpc_url, runs)
    sys.exit(verdict.exit_code)


def judge(file: Path, url: str, runs: Path) -> Verdict:
    """Send the traffic of the scenario in `file`, judge it, print the verdict and keep it beside the samples."""
    with progress(f"loadtest {file.stem}") as report:
        report("starting Locust")
        directory = run(file, url, runs, lambda done, total: report(f"{done // 5 * 5:.0f} of {total:.0f} s"))
    verdict = judge_run(directory)
    show(verdict)
    write_verdict(verdict, directory)
    say(f"samples, verdict and its page: {shown(write_page(directory, verdict))}")
    return verdict
