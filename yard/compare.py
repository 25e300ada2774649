"""`yard compare`: two load tests of the same traffic -> what changed between them, proved or not."""

import sys
from pathlib import Path

import click
from rich.table import Table

from loadtests.judging.comparison import CONFIDENCE, Change, Difference, compare_runs
from loadtests.judging.measure import Outcome
from loadtests.judging.verdict import EXIT_CODES
from loadtests.reports.report import judge_run, text
from yard.checkout import shown
from yard.console import out, say

STYLES = {Change.BETTER: "bold green", Change.WORSE: "bold red", Change.UNPROVED: ""}

RUN = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("before", type=RUN)
@click.argument("after", type=RUN)
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=CONFIDENCE, show_default=True)
def compare(before: Path, after: Path, confidence: float) -> None:
    """Say what differs from the run BEFORE a change to the run AFTER it, with a test of significance.

    Both are folders that `yard loadtest` made of one scenario; the SLA may differ. Exit code 0: nothing became worse
    that could be proved; 1: something did; 3: one of them says nothing of its server.

    \b
    Example: yard compare runs/20260101-120000-000-embed_smoke runs/20260101-130000-000-embed_smoke
    """
    differences = compare_runs(before, after, confidence)
    vetoes = [
        f"{shown(run.resolve())} cannot be compared: {veto}"
        for run in (before, after)
        for veto in judge_run(run).vetoes
    ]
    if vetoes:
        for veto in vetoes:
            say(veto)
        sys.exit(EXIT_CODES[Outcome.INCONCLUSIVE])
    table = Table("measure", "before", "after", "change", "")
    for each in differences:
        style = STYLES[each.change]
        mark = f"[{style}]{each.change}[/]" if style else each.change
        table.add_row(each.name, text(each.name, each.before), text(each.name, each.after), interval(each), mark)
    out.print(table)
    worse = [each.name for each in differences if each.change is Change.WORSE]
    better = [each.name for each in differences if each.change is Change.BETTER]
    say(conclusion(worse, better, confidence))
    sys.exit(1 if worse else 0)


def interval(of: Difference) -> str:
    """Return the bounds of after - before, as far as they exist."""
    bounds = [text(of.name, bound, signed=True) for bound in (of.low, of.high)]
    return "not bounded" if bounds == ["?", "?"] else f"{bounds[0]} to {bounds[1]}"


def conclusion(worse: list[str], better: list[str], confidence: float) -> str:
    """Return the answer in one sentence."""
    found = [f"{change}: {', '.join(names)}" for change, names in (("worse", worse), ("better", better)) if names]
    if not found:
        return f"no difference was proved at confidence {confidence:g}; longer runs prove smaller ones"
    return f"{'; '.join(found)} (confidence {confidence:g} for all together)"
