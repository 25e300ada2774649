"""What people see: results on standard output; progress on standard error, live on a terminal, else plain lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

# Without a terminal to fit, tables take the room they need.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False, soft_wrap=True)

OUTCOME_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


@contextmanager
def progress(subject: str) -> Iterator[Callable[[str], None]]:
    """Show what is going on with `subject`; the yielded function names the stage."""
    if not err.is_terminal:
        last = ""

        def line(stage: str) -> None:
            nonlocal last
            if stage != last:
                err.print(f"{subject}: {stage}", markup=False)
            last = stage

        yield line
        return
    with Status(subject, console=err) as status:
        yield lambda stage: status.update(f"{subject}: {stage}")


def say(line: str) -> None:
    """Print one line of result."""
    out.print(line, markup=False)
