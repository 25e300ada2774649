"""The plan of an LLM-API model: nothing is built; its version folder holds model.yaml and the whole checkpoint."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import gguf_checkpoint, onnx_decoder
from pipeline.checkpoint import checkpoint_files, require_whole
from pipeline.decoder import read_decoder
from pipeline.fingerprint import FileDigests, tool_versions
from pipeline.generate_plan import require_context
from pipeline.gpu_engines import LlmApiEngine
from pipeline.onnx_decoder import CHAT
from pipeline.onnx_encoder import TOKENIZER
from pipeline.recipe import GenerateRecipe, Profile
from pipeline.served import decoder_folder
from pipeline.store import Report, Step, Store
from pipeline.tensorrt_llm.golden import golden_request
from pipeline.tensorrt_llm.model_yaml import CHECKPOINT, MODEL_YAML, model_yaml

STEP = "llmapi_model"
FILES: Mapping[str, Sequence[str]] = {"tokenizer": [TOKENIZER, CHAT], "llmapi": [MODEL_YAML, CHECKPOINT]}


@dataclass(frozen=True)
class LlmApiPlan:
    """One LLM-API model to lay out."""

    recipe: GenerateRecipe
    engine: LlmApiEngine
    folder: Path
    conversion: Step | None
    step: Step
    store: Store

    profile: Profile = "gpu"

    @property
    def label(self) -> str:
        """The release, and how many GPUs."""
        return f"LLM API of TensorRT-LLM {self.engine.release}, {self.engine.tp * self.engine.pp} GPU"

    @property
    def files(self) -> Mapping[str, Sequence[str]]:
        """What each backend's version folder holds."""
        return FILES

    def make(self, out: Path, report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write model.yaml, checkpoint and tokenizer into `out`; return how many bytes, and the golden request.

        Raises CheckpointError: the checkpoint is damaged, or too short for the recipe.
        """
        folder = gguf_checkpoint.converted(self.folder, self.conversion, self.store, report)
        decoder = read_decoder(folder)
        require_context(self.recipe, decoder)
        require_whole(folder)
        onnx_decoder.save_facts(folder, decoder.context, out)
        inside = str(decoder_folder(self.recipe.name))
        (out / MODEL_YAML).write_text(model_yaml(self.engine, self.recipe.limits, inside))
        # A converted checkpoint is the store's own and may be linked; another's files keep their own inodes.
        place = os.link if self.conversion else shutil.copyfile
        files = checkpoint_files(folder)
        for number, file in enumerate(files):
            report(f"taking the checkpoint, file {number + 1} of {len(files)}")
            target = out / CHECKPOINT / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            place(file, target)
        return {"bytes": sum(file.stat().st_size for file in files)}, golden_request(out / CHAT)

    def misses(self, facts: Mapping[str, Any]) -> list[str]:
        """Nothing: it is the checkpoint itself; the server answers its golden request before it counts as ready."""
        return []


def plan_llmapi(
    recipe: GenerateRecipe, engine: LlmApiEngine, folder: Path, pinned: str, digests: FileDigests, store: Store
) -> LlmApiPlan:
    """Say what the LLM-API model of `recipe` needs; `pinned` is the digest of `folder`, which may be a GGUF file.

    Raises CheckpointError: a folder's config.json is of a kind that no step can read.
    """
    conversion = gguf_checkpoint.plan_conversion(folder, recipe.name, pinned, digests)
    if conversion is None:
        require_context(recipe, read_decoder(folder))
    covers: dict[str, Any] = {
        "checkpoint": pinned,
        "model_yaml": model_yaml(engine, recipe.limits, str(decoder_folder(recipe.name))),
        "tools": tool_versions(("tokenizers", "transformers")),
    }
    if conversion:
        covers["conversion"] = conversion.covers
    return LlmApiPlan(recipe, engine, folder, conversion, Step(STEP, recipe.name, covers), store)
