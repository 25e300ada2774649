"""Checkpoint -> engine: which step a recipe needs, and how its artefact is made, proved and published."""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from pipeline import runner
from pipeline.checkpoint import locate, require_pinned
from pipeline.embed_plan import plan_embed
from pipeline.fingerprint import FileDigests
from pipeline.generate_plan import plan_generate
from pipeline.gpu import Gpu, read_gpus
from pipeline.gpu_engines import (
    LlmApiEngine,
    OnnxDecoderEngine,
    OnnxEncoderEngine,
    TensorRtEngine,
    TensorRtLlmEngine,
)
from pipeline.openvino_plan import plan_openvino
from pipeline.plan import GOLDEN, Plan
from pipeline.quality import QualityError
from pipeline.recipe import (
    EmbedEngine,
    EmbedPrecision,
    EmbedRecipe,
    GenerateEngine,
    GenerateRecipe,
    Precision,
    Profile,
    Recipe,
)
from pipeline.runner import Runner, Streamer
from pipeline.store import Artefact, Report, Store
from pipeline.tensorrt_encoder import gpu_for
from pipeline.tensorrt_llm.engine_plan import plan_engine
from pipeline.tensorrt_llm.llmapi_plan import plan_llmapi
from pipeline.tensorrt_plan import plan_tensorrt


class Engines:
    """The engines of one checkout, kept in its store; `run` and `stream` call foreign tools."""

    def __init__(self, artifacts: Path, run: Runner = runner.run, stream: Streamer = runner.stream):
        self.store = Store(artifacts)
        self._digests = FileDigests(artifacts / "digests.json")
        self._run, self._stream = run, stream

    def plan(self, recipe: Recipe, profile: Profile = "cpu", precision: Precision | None = None) -> Plan:
        """Say what the engine of `recipe` needs, without importing torch; `precision` takes the place of the recipe's.

        Raises CheckpointError: the checkpoint is missing, not the pinned one, or of a kind no step can read. GpuError:
        the engine is built for the GPU at hand, and there is none.
        """
        folder = locate(recipe.checkpoint, recipe.file.parent)
        pinned = require_pinned(recipe, folder, self._digests)
        if isinstance(recipe, EmbedRecipe):
            return self._embed(recipe, profile, precision, folder, pinned)
        return self._generate(recipe, profile, precision, folder, pinned)

    def _embed(
        self, recipe: EmbedRecipe, profile: Profile, precision: Precision | None, folder: Path, pinned: str
    ) -> Plan:
        engine = recipe.engine.cpu if profile == "cpu" else recipe.engine.gpu
        assert engine, "read_recipes chooses recipes of the profile"
        if isinstance(engine, EmbedEngine):
            chosen = cast(EmbedPrecision, precision or engine.precision)
            return plan_embed(recipe, profile, chosen, folder, pinned, self._digests)
        if isinstance(engine, OnnxEncoderEngine):
            # TensorRT knows no fused operator.
            fused = engine.provider == "cuda"
            return plan_embed(recipe, profile, engine.precision, folder, pinned, self._digests, fused=fused)
        graph = plan_embed(recipe, profile, engine.precision, folder, pinned, self._digests, fused=False)
        return plan_tensorrt(graph, pinned, self._gpu(engine), self._digests, self._run, self._stream)

    def _generate(
        self, recipe: GenerateRecipe, profile: Profile, precision: Precision | None, folder: Path, pinned: str
    ) -> Plan:
        engine = recipe.engine.cpu if profile == "cpu" else recipe.engine.gpu
        assert engine, "read_recipes chooses recipes of the profile"
        match engine:
            case TensorRtLlmEngine():
                tools = (self.store, self._gpus(), self._run, self._stream)
                return plan_engine(recipe, engine, folder, pinned, self._digests, *tools)
            case LlmApiEngine():
                return plan_llmapi(recipe, engine, folder, pinned, self._digests, self.store)
            case GenerateEngine(kind="openvino") if precision is None:
                return plan_openvino(recipe, folder, pinned, self._digests, self.store)
            case GenerateEngine() | OnnxDecoderEngine():
                chosen = precision or engine.precision
                return plan_generate(recipe, profile, chosen, folder, pinned, self._digests, self.store)

    def _gpus(self) -> list[Gpu]:
        return read_gpus(self._run, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def _gpu(self, engine: TensorRtEngine) -> Gpu:
        """The GPU at hand that a plan of `engine` is built on."""
        gpus = self._gpus()
        here = {gpu.compute_capability for gpu in gpus}
        wanted = [capability for capability in engine.compute_capabilities if capability in here]
        return gpu_for((wanted or engine.compute_capabilities)[0], gpus)

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
            if missed := plan.misses(facts):
                raise QualityError(
                    f"engine {plan.recipe.name} {plan.label} misses its gate: {'; '.join(missed)}. It was not published"
                )
            (out / GOLDEN).write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
            return facts

        return self.store.build(plan.step, make)

    def unpublished(self, plan: Plan, stack: ExitStack, report: Report) -> tuple[Path, Mapping[str, Any]]:
        """Return folder and facts of the engine of `plan`: the published one, or one that lasts as long as `stack`.

        The gate is not asked.
        """
        if artefact := self.store.find(plan.step):
            return artefact.folder, artefact.facts
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"tritonyard-{plan.label}-")))
        facts, _ = plan.make(folder, lambda stage: report(f"{plan.label}: {stage}"))
        return folder, facts
