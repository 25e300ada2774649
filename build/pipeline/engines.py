"""Checkpoint -> engine: which step a recipe needs, and how its artefact is made, proved and published."""

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias, cast

from pipeline.checkpoint import locate, require_pinned
from pipeline.embed_plan import EmbedPlan, plan_embed
from pipeline.fingerprint import FileDigests
from pipeline.generate_plan import GeneratePlan, plan_generate
from pipeline.recipe import EmbedPrecision, EmbedRecipe, Precision, Recipe
from pipeline.store import Artefact, Report, Store

GOLDEN = "golden.json"

Plan: TypeAlias = EmbedPlan | GeneratePlan


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
        if isinstance(recipe, EmbedRecipe):
            return plan_embed(recipe, cast(EmbedPrecision, precision), folder, pinned, self._digests)
        return plan_generate(recipe, precision, folder, pinned, self._digests, self.store)

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
            facts, golden = plan.make(out, report)
            plan.require_gate(facts)
            (out / GOLDEN).write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
            return facts

        return self.store.build(plan.step, make)

    def unpublished(self, plan: Plan, stack: ExitStack, report: Report) -> tuple[Path, Mapping[str, Any]]:
        """Return folder and facts of the engine of `plan`: the published one, or one that lasts as long as `stack`.

        The gate is not asked.
        """
        if artefact := self.store.find(plan.step):
            return artefact.folder, artefact.facts
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"tritonyard-{plan.precision}-")))
        facts, _ = plan.make(folder, lambda stage: report(f"{plan.precision}: {stage}"))
        return folder, facts
