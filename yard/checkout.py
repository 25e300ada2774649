"""Where things lie in this checkout, and which parts a profile has."""

from pathlib import Path

import click

from pipeline.recipe import PROFILES

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "build" / "recipes"
ARTIFACTS = ROOT / ".artifacts"
BACKENDS = ROOT / "backends"
RUNS = ROOT / "runs"

profile_option = click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default="cpu",
    show_default=True,
    help="What the repository is for.",
)
model_argument = click.argument("model", required=False)


def repository(profile: str) -> Path:
    """Return the repository that Triton mounts for `profile`."""
    return ROOT / "model_repository" / profile


def shown(path: Path) -> str:
    """Return `path` as a reader in the checkout would write it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
