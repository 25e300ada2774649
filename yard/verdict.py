"""`yard verdict`: a finished load test, judged again -> the verdict of its own SLA or of another one."""

import sys
from pathlib import Path

import click
from rich.table import Table

from ensembles.declaration import read
from loadtests.judging.sla import SlaFile
from loadtests.judging.verdict import Verdict
from loadtests.reports.report import judge_run, rows, server_of, write_verdict
from loadtests.server.side import ServerSide
from loadtests.server.table import lines
from yard.checkout import shown
from yard.console import OUTCOME_STYLES, out, say


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--sla",
    "sla_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file with an [sla] table, a scenario too; without it the run's own SLA judges.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write verdict.json, junit.xml and metrics.prom there; without it nothing is written.",
)
def verdict(run: Path, sla_file: Path | None, folder: Path | None) -> None:
    """Judge the samples in RUN (a folder that `yard loadtest` made) again. Sends no request.

    Exit code 0 PASS, 1 FAIL, 3 INCONCLUSIVE.

    \b
    Example: yard verdict runs/20260101-120000-000-embed_smoke --sla stricter.toml
    """
    found = judge_run(run, read(sla_file, SlaFile).sla if sla_file else None)
    server = server_of(run)
    show(found, server)
    if folder:
        write_verdict(found, folder, server)
        say(f"verdict: {shown(folder.resolve())}")
    sys.exit(found.exit_code)


def show(verdict: Verdict, server: ServerSide | None = None) -> None:
    """Print the table of measures, what the server told of itself, the outcome, and what decided it."""
    table = Table("measure", "value", "interval", "limit", "")
    for row in rows(verdict):
        style = OUTCOME_STYLES.get(row.outcome, "")
        table.add_row(row.measure, row.value, row.interval, row.limit, f"[{style}]{row.outcome}[/]" if style else "")
    out.print(table)
    for line in lines(server) if server else ():
        say(line)
    cut = f", {verdict.cut} cut as warm-up" if verdict.cut else ""
    style = OUTCOME_STYLES[verdict.outcome]
    out.print(f"[{style}]{verdict.outcome}[/] {verdict.name}, {verdict.judged} requests judged{cut}")
    for reason in verdict.reasons:
        say(f"  {reason}")
