"""`yard lint`: a Triton repository, ours or not, read without a server."""

import sys
from pathlib import Path

import click

from ensembles.lint import lint as lint_repository
from yard.console import say


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
def lint(path: Path) -> None:
    """Find what tritonserver would refuse, or load and then serve wrong, in the repository at PATH.

    \b
    Example: yard lint model_repository/cpu
    """
    findings = lint_repository(path)
    for finding in findings:
        say(str(finding))
    errors = sum(finding.severity == "error" for finding in findings)
    say(f"{errors} error{'' if errors == 1 else 's'}, {len(findings) - errors} warnings in {path}")
    if errors:
        sys.exit(1)
