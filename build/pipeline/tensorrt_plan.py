"""The plan of a TensorRT encoder: a plain ONNX graph, proved against its checkpoint, built on the GPU it is for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensembles.embed import plan_file, shape_profile
from pipeline import tensorrt_encoder
from pipeline.docker_command import is_here
from pipeline.embed_plan import EmbedPlan
from pipeline.fingerprint import FileDigests
from pipeline.gpu import Gpu
from pipeline.gpu_fingerprint import FILE, GpuFingerprint, write_fingerprint
from pipeline.gpu_fit import require_fit
from pipeline.onnx_encoder import MODEL, TOKENIZER
from pipeline.recipe import EmbedRecipe, Profile
from pipeline.runner import Runner, Streamer
from pipeline.store import Report, Step
from pipeline.tensorrt_encoder import DOCKERFILE, IMAGE, TOOL
from pipeline.tensorrt_version import tensorrt_version

STEP = "tensorrt_encoder"


@dataclass(frozen=True)
class TensorRtPlan:
    """One plan to build for `gpu` from the graph of `graph`."""

    graph: EmbedPlan
    pinned: str
    gpu: Gpu
    step: Step
    run: Runner
    stream: Streamer

    profile: Profile = "gpu"

    @property
    def recipe(self) -> EmbedRecipe:
        """The recipe that asks for it."""
        return self.graph.recipe

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return self.graph.folder

    @property
    def label(self) -> str:
        """The precision, and what it runs on."""
        return f"{self.graph.label} TensorRT plan for compute capability {self.gpu.compute_capability}"

    @property
    def files(self) -> Mapping[str, Sequence[str]]:
        """What each backend's version folder holds."""
        plan = plan_file(self.gpu.compute_capability)
        return {"tokenizer": [TOKENIZER], "tensorrt": [plan, FILE], "pooler": []}

    def make(self, out: Path, report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write plan, fingerprint and tokenizer into `out`; return what the graph was measured at, and the golden
        request.

        Raises CheckpointError: the checkpoint is damaged. FitError: it does not fit into the GPU. PlanError,
        TensorRtVersionError: the tools failed.
        """
        require_fit(self.recipe, [self.gpu], self.folder)
        facts, golden = self.graph.make(out, report)
        limits = self.recipe.limits
        profile = shape_profile(limits.max_batch_size, limits.max_tokens)
        report(f"{TOOL}: {self.label}")
        tensorrt_encoder.build(self.graph.encoder.inputs, profile, self.gpu, out, self.stream, report)
        (out / MODEL).unlink()
        # Afterwards: the image is there now.
        tensorrt, cuda = tensorrt_version(self.run, None if is_here(TOOL) else IMAGE)
        fingerprint = GpuFingerprint(
            tensorrt=tensorrt,
            cuda=cuda,
            compute_capability=self.gpu.compute_capability,
            limits={"max_batch_size": limits.max_batch_size, "max_input_len": limits.max_tokens},
            checkpoint=self.pinned,
        )
        write_fingerprint(out, fingerprint)
        return facts | {"fingerprint": fingerprint.model_dump()}, golden

    def misses(self, facts: Mapping[str, Any]) -> list[str]:
        """Return each limit of the gate that the graph misses; the plan computes in the graph's own precision."""
        return self.graph.misses(facts)


def plan_tensorrt(
    graph: EmbedPlan, pinned: str, gpu: Gpu, digests: FileDigests, run: Runner, stream: Streamer
) -> TensorRtPlan:
    """Say what the plan of the recipe of `graph`, which is not fused, needs on `gpu`."""
    covers = {
        "graph": graph.step.key,
        "compute_capability": gpu.compute_capability,
        "limits": graph.recipe.limits.model_dump(include={"max_batch_size", "max_tokens"}),
        "sources": {file.name: digests.of(file) for file in (Path(tensorrt_encoder.__file__), DOCKERFILE)},
    }
    return TensorRtPlan(graph, pinned, gpu, Step(STEP, graph.recipe.name, covers), run, stream)
