"""The plan of a TensorRT-LLM engine: checkpoint -> TensorRT-LLM checkpoint -> engine, the last on the GPU it is for.

The first step is ours and runs anywhere; the second is `trtllm-build` in NVIDIA's container, or in place inside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import gguf_checkpoint, onnx_decoder
from pipeline.checkpoint import read_json, require_whole
from pipeline.container_image import container_image
from pipeline.decoder import Decoder
from pipeline.docker_command import docker_command, is_here, pull
from pipeline.fingerprint import FileDigests, tool_versions
from pipeline.generate_plan import require_context
from pipeline.gpu import Gpu
from pipeline.gpu_engines import TensorRtLlmEngine
from pipeline.gpu_fingerprint import FILE, GpuFingerprint, write_fingerprint
from pipeline.gpu_fit import require_fit
from pipeline.onnx_decoder import CHAT, DECODER
from pipeline.onnx_encoder import TOKENIZER
from pipeline.quality import QualityError
from pipeline.recipe import GenerateRecipe, Profile
from pipeline.runner import Runner, Streamer
from pipeline.store import Report, Step, Store
from pipeline.tensorrt_llm import calibration, quantise
from pipeline.tensorrt_llm.build_command import TOOL, build_command, engine_limits
from pipeline.tensorrt_llm.engine_build import build_engine
from pipeline.tensorrt_llm.export import write_checkpoint
from pipeline.tensorrt_llm.family import read_model
from pipeline.tensorrt_llm.golden import golden_request
from pipeline.tensorrt_llm.quantised_checkpoint import Quantisation
from pipeline.tensorrt_llm.serving_parameters import TOKENIZER_INFO
from pipeline.tensorrt_llm.settings import checkpoint_settings
from pipeline.tensorrt_llm.tokenizer_info import write_tokenizer_info
from pipeline.tensorrt_version import tensorrt_version

CHECKPOINT_STEP = "tensorrt_llm_checkpoint"
STEP = "tensorrt_llm_engine"
# What the first step's result depends on besides its inputs: its own code.
SOURCES = (
    *("convert.py", "family.py", "layout.py", "rank_config.py", "rank_file.py", "shards.py", "split.py"),
    *("calibration.py", "quantise.py", "quantised_checkpoint.py"),
)
ENGINE_FILES = ["rank*.engine", "config.json", FILE, TOKENIZER_INFO]
FILES: Mapping[str, Sequence[str]] = {
    "tokenizer": [TOKENIZER, CHAT, DECODER],
    "tensorrtllm": ENGINE_FILES,
    "detokenizer": [TOKENIZER, DECODER],
}


@dataclass(frozen=True)
class EnginePlan:
    """One engine to build on, and for, `gpus`; `run` and `stream` call the tools."""

    recipe: GenerateRecipe
    engine: TensorRtLlmEngine
    folder: Path
    pinned: str
    gpus: tuple[Gpu, ...]
    conversion: Step | None
    checkpoint: Step
    step: Step
    store: Store
    run: Runner
    stream: Streamer

    profile: Profile = "gpu"

    @property
    def label(self) -> str:
        """Release, precision, and how many GPUs."""
        return engine_label(self.engine)

    @property
    def files(self) -> Mapping[str, Sequence[str]]:
        """What each backend's version folder holds."""
        return FILES

    def make(self, out: Path, report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write engine, fingerprint, tokenizer and facts into `out`; return what was built, and the golden request.

        Raises CheckpointError: the checkpoint is damaged, or of a kind that cannot be converted. FitError: the engine
        does not fit into the GPUs. EngineBuildError: the builder failed.
        """
        folder = gguf_checkpoint.converted(self.folder, self.conversion, self.store, report)
        context = _require_context(self.recipe, folder)
        require_fit(self.recipe, self.gpus, folder)
        require_whole(folder)
        said = onnx_decoder.save_facts(folder, context, out)
        write_tokenizer_info(out / TOKENIZER, said["vocab_size"], said["end_ids"], out / TOKENIZER_INFO)
        checkpoint = self.store.build(self.checkpoint, lambda made: _checkpoint(self.engine, folder, made, report))
        if not is_here(TOOL):
            pull(self._image, self.run, self.stream, report)
        report(f"asking for the versions that {TOOL} builds with")
        tensorrt, cuda = tensorrt_version(self.run, None if is_here(TOOL) else self._image)
        limits = engine_limits(self.engine, self.recipe.limits)
        argv = self._command(checkpoint.folder, out)
        report(f"{TOOL}: {self.label}")
        build_engine(self.recipe.name, self.engine, argv, out, self.stream, report)
        fingerprint = GpuFingerprint(
            tensorrt_llm=self.engine.release,
            tensorrt=tensorrt,
            cuda=cuda,
            compute_capability=self.gpus[0].compute_capability,
            tp=self.engine.tp,
            pp=self.engine.pp,
            limits=limits,
            checkpoint=self.pinned,
        )
        write_fingerprint(out, fingerprint)
        facts = {"command": argv, "fingerprint": fingerprint.model_dump(), "checkpoint": checkpoint.facts}
        return facts, golden_request(out / CHAT)

    def misses(self, facts: Mapping[str, Any]) -> list[str]:
        """Nothing: the engine is not measured here; the server answers its golden request before it counts as ready.

        What modelopt made of the checkpoint was measured, and refused where it is too far from it.
        """
        return []

    def _command(self, checkpoint: Path, out: Path) -> list[str]:
        if is_here(TOOL):
            return build_command(self.engine, self.recipe.limits, str(checkpoint), str(out))
        argv = build_command(self.engine, self.recipe.limits, "/checkpoint", "/engine")
        return docker_command(self._image, argv, {checkpoint.resolve(): "/checkpoint:ro", out.resolve(): "/engine"})

    @property
    def _image(self) -> str:
        return container_image(self.engine.release).image


def _require_context(recipe: GenerateRecipe, folder: Path) -> int:
    """Return how many tokens TensorRT-LLM's engine of the checkpoint in `folder` is right for.

    Its checkpoint does not hold Mistral's window, beyond which only max_attention_window_size is right.

    Raises CheckpointError: they are fewer than the recipe promises, or the family is not carried.
    """
    config = read_json(folder / "config.json")
    model = read_model(folder, config)
    bounds = {"max_position_embeddings": model.positions}
    engine = recipe.engine.gpu
    windowed = isinstance(engine, TensorRtLlmEngine) and engine.serving.max_attention_window_size
    if model.family == "mistral" and config.get("sliding_window") and not windowed:
        bounds["sliding_window"] = int(config["sliding_window"])
    bound = min(bounds, key=bounds.__getitem__)
    require_context(recipe, Decoder(model.family, bounds[bound], bound))
    return bounds[bound]


def engine_label(engine: TensorRtLlmEngine) -> str:
    """Return what is built, in a few words."""
    precision = engine.quantisation or engine.dtype
    return f"TensorRT-LLM {engine.release} {precision}, {engine.tp * engine.pp} GPU"


def printed_commands(recipe: GenerateRecipe, engine: TensorRtLlmEngine) -> list[list[str]]:
    """Return the commands that make the engine, with placeholders for folders that only a build knows."""
    by_hand = ["yard", "convert", "CHECKPOINT", "CONVERTED", f"--tp={engine.tp}", f"--pp={engine.pp}"]
    by_hand += [f"--dtype={engine.dtype}"]
    if engine.quantisation:
        by_hand += [f"--quantisation={engine.quantisation}"]
    if engine.kv_cache:
        by_hand += [f"--kv-cache={engine.kv_cache}"]
    argv = build_command(engine, recipe.limits, "/checkpoint", "/engine")
    mounts = {Path("CONVERTED"): "/checkpoint:ro", Path("ENGINE"): "/engine"}
    return [by_hand, docker_command(container_image(engine.release).image, argv, mounts)]


def _checkpoint(engine: TensorRtLlmEngine, folder: Path, out: Path, report: Report) -> Mapping[str, Any]:
    """Write the TensorRT-LLM checkpoint that `engine` is built from; return the facts.

    Raises QualityError: it was quantised too far from the checkpoint.
    """
    facts = write_checkpoint(folder, out, checkpoint_settings(engine), report)
    if "perplexity" in facts:
        increase = facts["perplexity"] / facts["checkpoint_perplexity"] - 1
        if increase > engine.max_perplexity_increase:
            raise QualityError(
                f"checkpoint {folder} quantised to {engine.quantisation} has perplexity {facts['perplexity']:.2f}, "
                f"{increase:.1%} above its own; engine.gpu.max_perplexity_increase allows "
                f"{engine.max_perplexity_increase:.1%}. It was not published"
            )
    return facts


def plan_engine(
    recipe: GenerateRecipe,
    engine: TensorRtLlmEngine,
    folder: Path,
    pinned: str,
    digests: FileDigests,
    store: Store,
    gpus: Sequence[Gpu],
    run: Runner,
    stream: Streamer,
) -> EnginePlan:
    """Say what the engine of `recipe` needs; `pinned` is the digest of `folder`, which may be a GGUF file.

    Raises CheckpointError: a folder's config.json says that it cannot be converted.
    """
    here = Path(__file__).parent
    conversion = gguf_checkpoint.plan_conversion(folder, recipe.name, pinned, digests)
    if conversion is None:
        _require_context(recipe, folder)
    split = {key: getattr(engine, key) for key in ("tp", "pp", "dtype", "quantisation", "kv_cache")}
    calibrated = isinstance(checkpoint_settings(engine), Quantisation)
    covers: dict[str, Any] = {
        "checkpoint": pinned,
        "split": split,
        "tools": tool_versions(("tokenizers", "transformers", *(quantise.TOOLS if calibrated else ()))),
        "sources": {name: digests.of(here / name) for name in SOURCES},
        "calibration": digests.of(calibration.TEXT) if calibrated else None,
    }
    if conversion:
        covers["conversion"] = conversion.covers
    checkpoint = Step(CHECKPOINT_STEP, recipe.name, covers)
    built = {
        "tensorrt_llm_checkpoint": checkpoint.key,
        "compute_capability": gpus[0].compute_capability,
        "image": container_image(engine.release).image,
        "arguments": build_command(engine, recipe.limits, "", "")[3:],
    }
    step = Step(STEP, recipe.name, built)
    return EnginePlan(recipe, engine, folder, pinned, tuple(gpus), conversion, checkpoint, step, store, run, stream)
