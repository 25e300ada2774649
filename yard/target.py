"""What a load test is aimed at: a server that runs, or one of our own; and one run against it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from loadtests.judging.verdict import Verdict
from loadtests.reports.page import write_page
from loadtests.reports.report import judge_run, server_of, write_verdict
from loadtests.server.side import ServerSide
from loadtests.traffic.run import run
from pipeline.recipe import Profile
from serving.embedded import Ports
from yard.checkout import RUNS, profile_option
from yard.console import progress
from yard.serve import own_server, running

MOST_WORKERS = 64


@dataclass(frozen=True)
class Target:
    """Where the server answers, where it shows its metrics, and how many processes send the traffic."""

    url: str
    metrics_url: str
    workers: int = 1


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `aimed`, and `--out`, to a command."""
    for option in (
        profile_option,
        click.option(
            *("--out", "runs"),
            type=click.Path(file_okay=False, path_type=Path),
            default=RUNS,
            help="Where runs go.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, MOST_WORKERS),
            default=1,
            help="Locust processes that share the traffic, where one is not fast enough.",
        ),
        click.option(
            "--metrics-url",
            help=f"Where the server of --url shows its metrics; without it http://HOST:{Ports.metrics}/metrics.",
        ),
        click.option("--url", help="A running server, grpc://host:port; without it one is started."),
    ):
        command = option(command)
    return command


@contextmanager
def aimed(url: str | None, metrics_url: str | None, workers: int, profile: Profile) -> Iterator[Target]:
    """Give the server at `url`, or one of our own that ends afterwards."""
    if url:
        yield Target(url, metrics_url or default_metrics_url(url), workers)
        return
    if metrics_url:
        raise click.UsageError("--metrics-url is for a server given by --url; without --url one of our own is read")
    with running(own_server(profile), profile) as own:
        yield Target(own.grpc_url, own.metrics_url, workers)


def default_metrics_url(url: str) -> str:
    """Return where the Triton at `url` shows its metrics unless told otherwise.

    A `url` that cannot be read is the SDK's to refuse.
    """
    try:
        host = urlsplit(url if "://" in url else f"grpc://{url}").hostname or ""
    except ValueError:
        host = ""
    return f"http://{f'[{host}]' if ':' in host else host}:{Ports.metrics}/metrics"


def measured(file: Path, target: Target, runs: Path, subject: str) -> tuple[Path, Verdict, ServerSide | None]:
    """Send the traffic of the scenario in `file`; return the run's folder, its verdict, and what the server told.

    `subject` is what the progress is called. The folder keeps all of it: samples, verdict, page.
    """
    with progress(subject) as report:
        report("starting Locust")
        directory = run(
            file,
            target.url,
            runs,
            lambda done, total: report(f"{done // 5 * 5:.0f} of {total:.0f} s"),
            workers=target.workers,
            metrics_url=target.metrics_url,
        )
        verdict, server = judge_run(directory), server_of(directory)
        write_verdict(verdict, directory, server)
        write_page(directory, verdict)
    return directory, verdict, server
