"""A run as one HTML page, report.html beside its samples: verdict, measures, plots, the server's side, what was run.

Self-contained: it opens from disk, fetches nothing, and runs no script.
"""

from pathlib import Path

from loadtests.judging.measure import Outcome
from loadtests.judging.sla import Sla
from loadtests.judging.verdict import Verdict
from loadtests.reports import plots
from loadtests.reports.report import rows
from loadtests.reports.settings import settings
from loadtests.reports.template import render
from loadtests.samples import read_run, write_whole
from loadtests.server.metrics import read_server
from loadtests.server.side import queues, server_side
from loadtests.server.table import tables

PAGE = "report.html"
TEMPLATE = "page.html.j2"
# Beside the word and the colour.
SIGNS = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.INCONCLUSIVE: "?"}


def write_page(directory: Path, verdict: Verdict, sla: Sla | None = None) -> Path:
    """Write the page of the finished run in `directory` and return its path; `verdict` is by `sla`, or by its own SLA.

    Raises RunError: the run is unfinished or damaged.
    """
    run, samples = read_run(directory)
    sla = sla or run.scenario.sla
    metrics = read_server(directory)
    server = server_side(metrics, run, samples) if metrics else None
    inside = queues(metrics) if metrics and server and server.levels else {}
    text = render(
        TEMPLATE,
        run=run,
        verdict=verdict,
        signs=SIGNS,
        rows=rows(verdict),
        plots=plots.draw(samples, run.scenario, sla, verdict.measures, inside),
        server=server,
        server_tables=tables(server) if server else (),
        traffic={key: value for key, value in settings(run.scenario).items() if not key.startswith("sla.")},
        sla=settings(sla),
        # Whatever else run.json says.
        facts={key: value for key, value in settings(run).items() if not key.startswith(("scenario.", "versions."))},
    )
    return write_whole(directory / PAGE, text)
