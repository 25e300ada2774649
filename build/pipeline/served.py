"""What serves a recipe: its ensemble, from the recipe and the checkpoint's small files alone.

Needs no weights, no engine and no GPU, so that every config.pbtxt can be committed and held against its recipe.
"""

from dataclasses import replace
from pathlib import Path

from ensembles.embed import EmbedSpec, embed_ensemble
from ensembles.generate import GenerateBackend, GenerateSpec, generate_ensemble
from ensembles.llmapi import llmapi_ensemble
from ensembles.model import Ensemble
from ensembles.tensorrt_llm import tensorrt_llm_ensemble
from pipeline.checkpoint import described
from pipeline.encoder import read_encoder
from pipeline.gpu_engines import LlmApiEngine, OnnxEncoderEngine, TensorRtEngine, TensorRtLlmEngine
from pipeline.recipe import EmbedRecipe, GenerateRecipe, Profile, Recipe
from pipeline.tensorrt_llm.serving_parameters import as_parameters

VERSION = "1"
# Where a container mounts the repository: TensorRT-LLM's backend wants the engine's path in full.
MOUNT = "/models"


def decoder_folder(name: str) -> Path:
    """Return the version folder of the decoder of model `name` as the container sees it."""
    return Path(MOUNT) / f"{name}_decoder" / VERSION


def ensemble_of(recipe: Recipe, profile: Profile) -> Ensemble:
    """Return the ensemble that serves `recipe` in `profile`.

    Raises CheckpointError: an encoder's small files are neither committed beside the recipe nor on this machine.
    """
    if isinstance(recipe, EmbedRecipe):
        return _embed(recipe, profile)
    return _generate(recipe, profile)


def _embed(recipe: EmbedRecipe, profile: Profile) -> Ensemble:
    encoder, limits = read_encoder(described(recipe)), recipe.limits
    spec = EmbedSpec(
        name=recipe.name,
        encoder_inputs=encoder.inputs,
        hidden_size=encoder.hidden_size,
        pooling=encoder.pooling,
        normalize=encoder.normalize,
        max_tokens=limits.max_tokens,
        max_text_bytes=limits.max_text_bytes,
        max_batch_size=limits.max_batch_size,
        max_queue_size=limits.max_queue_size,
    )
    engine = recipe.engine.gpu if profile == "gpu" else None
    match engine:
        case OnnxEncoderEngine():
            spec = replace(spec, runtime="onnx_cuda" if engine.provider == "cuda" else "onnx_tensorrt")
        case TensorRtEngine():
            spec = replace(spec, runtime="tensorrt", compute_capabilities=engine.compute_capabilities)
    if engine:
        spec = replace(spec, instances=engine.instances, fp16=engine.precision == "fp16")
    return embed_ensemble(spec)


def _generate(recipe: GenerateRecipe, profile: Profile) -> Ensemble:
    spec = GenerateSpec(name=recipe.name, **recipe.limits.model_dump())
    engine = recipe.engine.gpu if profile == "gpu" else None
    match engine:
        case TensorRtLlmEngine():
            parameters = as_parameters(engine.serving, str(decoder_folder(recipe.name)), engine.build.max_beam_width)
            return tensorrt_llm_ensemble(spec, parameters, drafts=engine.build.speculative_decoding_mode is not None)
        case LlmApiEngine():
            return llmapi_ensemble(spec)
        case _:
            on_openvino = profile == "cpu" and recipe.engine.cpu and recipe.engine.cpu.kind == "openvino"
            backend: GenerateBackend = "openvino_generate" if on_openvino else "onnx_generate"
            return generate_ensemble(spec, "cuda" if engine else "cpu", backend)
