"""What every plan says: one engine to build, whatever its task, profile and kind."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.recipe import Profile, Recipe
from pipeline.store import Report, Step

GOLDEN = "golden.json"


class Plan(Protocol):
    """One engine to build: where its checkpoint lies, and the step that makes it.

    `label` says what is built, in a few words ("int8"). `files` names, by backend, what a model's version folder takes
    of the artefact, as patterns; a folder is taken whole.
    """

    @property
    def recipe(self) -> Recipe:
        """The recipe that asks for it."""

    @property
    def profile(self) -> Profile:
        """The profile that it is for."""

    @property
    def folder(self) -> Path:
        """The checkpoint's folder, or its GGUF file."""

    @property
    def step(self) -> Step:
        """The last step, whose artefact the repository takes."""

    @property
    def label(self) -> str:
        """What is built."""

    @property
    def files(self) -> Mapping[str, Sequence[str]]:
        """What each backend's version folder holds."""

    def make(self, out: Path, report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write the engine and what goes with it into `out`; return what was measured, and the golden request.

        Raises CheckpointError: the checkpoint is damaged, or of a kind that no step can build; and what the tools of
        the kind raise.
        """

    def misses(self, facts: Mapping[str, Any]) -> list[str]:
        """Return each limit of the recipe's gate that the measured `facts` miss."""
