"""Checkpoint -> engine: which step a recipe needs, and how its artefact is made, proved and published."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import onnx_encoder, quality
from pipeline.checkpoint import CheckpointError, Encoder, locate, read_encoder, require_pinned, require_whole
from pipeline.fingerprint import FileDigests, tool_versions
from pipeline.onnx_encoder import MODEL, Report
from pipeline.quality import Parity, QualityError
from pipeline.recipe import Precision, Recipe
from pipeline.store import Artefact, Step, Store

GOLDEN = "golden.json"
STEP = "onnx_encoder"
# What the step's result depends on besides its inputs: its own code and the parity texts.
SOURCES = ("onnx_encoder.py", "quality.py", "texts/parity.txt")


@dataclass(frozen=True)
class Plan:
    """One engine to build: where its checkpoint lies, what it is, and the step that makes it."""

    recipe: Recipe
    folder: Path
    encoder: Encoder
    step: Step


class Engines:
    """The engines of one checkout, kept in its store."""

    def __init__(self, artifacts: Path):
        self.store = Store(artifacts)
        self._digests = FileDigests(artifacts / "digests.json")

    def plan(self, recipe: Recipe, precision: Precision | None = None) -> Plan:
        """Say what the engine of `recipe` needs, without importing torch; `precision` overrides the recipe's.

        Raises CheckpointError: the checkpoint is missing, not the pinned one, or of a kind no step can read.
        """
        precision = precision or recipe.engine.cpu.precision
        folder = locate(recipe.checkpoint, recipe.file.parent)
        pinned = require_pinned(recipe, folder, self._digests)
        encoder = read_encoder(folder)
        require_tokens(recipe, encoder)
        here = Path(__file__).parent
        covers = {
            "checkpoint": pinned,
            "precision": precision,
            "gate": getattr(recipe.quality, precision).model_dump(),
            "max_tokens": recipe.limits.max_tokens,
            "opset": onnx_encoder.OPSET,
            "tools": tool_versions(onnx_encoder.TOOLS),
            "sources": {name: self._digests.of(here / name) for name in SOURCES},
        }
        return Plan(recipe, folder, encoder, Step(STEP, recipe.name, covers))

    def why(self, plan: Plan) -> list[str]:
        """Return the named reasons for which the engine would be built; none when it is there."""
        return self.store.why(plan.step)

    def build(self, plan: Plan, report: Report) -> Artefact:
        """Return the engine of `plan`, built and proved when it is not there.

        Raises CheckpointError: the checkpoint is damaged. QualityError: the engine misses its gate; it is not
        published.
        """

        def make(out: Path) -> dict[str, Any]:
            report("reading the checkpoint")
            # The remembered digest served the plan; what is now read must be it, byte for byte.
            require_pinned(plan.recipe, plan.folder, self._digests, fresh=True)
            parity = make_engine(plan, out, report)
            require_parity(plan, parity)
            file = out / MODEL
            return {"parity": asdict(parity), "signature": onnx_encoder.signature(file)}

        return self.store.build(plan.step, make)


def require_tokens(recipe: Recipe, encoder: Encoder) -> None:
    """Raise CheckpointError when the recipe promises longer texts than the checkpoint has positions for."""
    if recipe.limits.max_tokens > encoder.positions:
        raise CheckpointError(
            f"{recipe.file}: limits.max_tokens = {recipe.limits.max_tokens} is more than the {encoder.positions} "
            f"positions of {recipe.checkpoint}"
        )


def make_engine(plan: Plan, out: Path, report: Report) -> Parity:
    """Write engine, tokenizer and golden request of `plan` into `out`, and return the engine's parity."""
    require_whole(plan.folder)
    precision: Precision = plan.step.covers["precision"]
    reference = onnx_encoder.load_reference(plan.folder)
    onnx_encoder.export(reference, plan.encoder, precision, out, report)
    onnx_encoder.save_tokenizer(plan.folder, out)
    report("proving it against the checkpoint")
    session = onnx_encoder.open_session(out / MODEL)
    limits = plan.recipe.limits
    parity, golden = quality.measure(reference, session, plan.folder, plan.encoder, limits.max_tokens)
    gate = getattr(plan.recipe.quality, precision)
    (out / GOLDEN).write_text(json.dumps({**golden, "min_cosine": gate.min_cosine}) + "\n")
    return parity


def require_parity(plan: Plan, parity: Parity) -> None:
    """Raise QualityError when `parity` misses the gate of the plan's precision, and say by how much."""
    precision = plan.step.covers["precision"]
    if missed := quality.misses(parity, getattr(plan.recipe.quality, precision)):
        raise QualityError(
            f"engine {plan.recipe.name} {precision} misses its gate on {parity.texts} texts: {'; '.join(missed)}. "
            "It was not published"
        )
