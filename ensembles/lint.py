"""The lint over a Triton model repository: what the server would refuse, and what it would only show to a caller.

Reads config.pbtxt and file names alone: no server, no engine, any backend. The rules are `RULES`.
"""

from collections.abc import Iterator
from pathlib import Path

from ensembles.errors import YardError
from ensembles.finding import RULES, Finding, Rule
from ensembles.folder import Folder, check_folder
from ensembles.joint import check_joints
from ensembles.signature import check_signature
from ensembles.wiring import Repository, check_wiring, read_repository

__all__ = ["RULES", "Finding", "Rule", "lint"]


def lint(repository: Path) -> list[Finding]:
    """Return what is wrong with the model repository, by model, then by rule.

    Raises YardError: there is no such folder.
    """
    if not repository.is_dir():
        raise YardError(f"model repository {repository} is not a folder; build it with `yard repository`")
    whole = read_repository(repository)
    findings = [finding for folder in whole.folders.values() for finding in _check(folder, whole)]
    return sorted(findings, key=lambda finding: (finding.model, finding.rule))


def _check(folder: Folder, repository: Repository) -> Iterator[Finding]:
    """Yield the findings of one model."""
    yield from check_folder(folder)
    if folder.config is None:
        return
    yield from check_signature(folder.path, folder.config, repository.decoupled(folder.name))
    yield from check_wiring(folder.name, folder.config, repository)
    if folder.config.platform == "ensemble":
        yield from check_joints(folder.name, folder.config, repository)
