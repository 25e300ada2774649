"""What changes when a recipe's TensorRT-LLM engine becomes an LLM-API model: two ensembles held side by side. Pure."""

from dataclasses import dataclass, replace

from ensembles.model import Ensemble
from pipeline.gpu_engines import LlmApiEngine, TensorRtLlmEngine
from pipeline.recipe import GenerateRecipe
from pipeline.served import decoder_folder, ensemble_of
from pipeline.tensorrt_llm.model_yaml import model_yaml

# Serving parameters and build flags -> the LLM API's own, where model.yaml carries them over.
CARRIED = {
    "kv_cache_free_gpu_mem_fraction": "kv_cache_config.free_gpu_memory_fraction",
    "enable_kv_cache_reuse": "kv_cache_config.enable_block_reuse",
    "enable_chunked_context": "enable_chunked_prefill",
    "max_num_tokens": "max_num_tokens",
}


@dataclass(frozen=True)
class Migration:
    """What callers lose (`gone_inputs`, `gone_outputs`), which `models` there are before and after, what the engine's
    tensors are called (`renamed`: ensemble input -> before, after), and which settings of the recipe have no successor.
    """

    gone_inputs: tuple[str, ...]
    gone_outputs: tuple[str, ...]
    models: tuple[tuple[str, ...], tuple[str, ...]]
    renamed: dict[str, tuple[str, str]]
    gone_settings: tuple[str, ...]
    model_yaml: str


def llmapi_engine(engine: TensorRtLlmEngine) -> LlmApiEngine:
    """Return the LLM-API table that says what the engine's says."""
    return LlmApiEngine(
        kind="llmapi",
        release=engine.release,
        dtype=engine.dtype,
        tp=engine.tp,
        pp=engine.pp,
        gpus=engine.gpus,
        max_num_tokens=engine.build.max_num_tokens,
        kv_cache_free_gpu_mem_fraction=engine.serving.kv_cache_free_gpu_mem_fraction,
        enable_kv_cache_reuse=engine.serving.enable_kv_cache_reuse,
        enable_chunked_context=engine.serving.enable_chunked_context,
    )


def migration(recipe: GenerateRecipe, engine: TensorRtLlmEngine) -> Migration:
    """Hold the model that `engine` serves against the same recipe's under the LLM API."""
    successor = llmapi_engine(engine)
    before = ensemble_of(recipe, "gpu")
    after = ensemble_of(replace(recipe, engine=recipe.engine.model_copy(update={"gpu": successor})), "gpu")
    old, new = _asked(before), _asked(after)
    return Migration(
        gone_inputs=_gone({tensor.name for tensor in before.inputs}, {tensor.name for tensor in after.inputs}),
        gone_outputs=_gone({tensor.name for tensor in before.outputs}, {tensor.name for tensor in after.outputs}),
        models=(_models(before), _models(after)),
        renamed={name: (old[name], new[name]) for name in sorted(old.keys() & new.keys()) if old[name] != new[name]},
        gone_settings=_settings(engine),
        model_yaml=model_yaml(successor, recipe.limits, str(decoder_folder(recipe.name))),
    )


def _asked(ensemble: Ensemble) -> dict[str, str]:
    """The decoder's name of each ensemble input that reaches it, itself or through the tokenizer."""
    tokenizer, decoder = ensemble.steps[:2]
    through = {ours: name for name, ours in tokenizer.outputs.items()}
    asked = {through.get(ours, ours): inner for inner, ours in decoder.inputs.items()}
    # What the tokenizer makes of the caller's wish has the decoder's name.
    successor = {"request_output_len": "max_tokens", "streaming": "stream", "stop_words_list": "stop_words"}
    return {successor.get(name, name): inner for name, inner in asked.items()}


def _gone(before: set[str], after: set[str]) -> tuple[str, ...]:
    return tuple(sorted(before - after))


def _models(ensemble: Ensemble) -> tuple[str, ...]:
    return tuple(f"{model.name} ({model.backend})" for model in ensemble.models)


def _settings(engine: TensorRtLlmEngine) -> tuple[str, ...]:
    said = {
        "serving": engine.serving.model_dump(exclude_none=True, exclude_defaults=True),
        "build": engine.build.model_dump(exclude_none=True, exclude_defaults=True),
    }
    gone = [f"{table}.{name}" for table, values in said.items() for name in values if name not in CARRIED]
    return (*gone, *(name for name in ("quantisation", "kv_cache") if getattr(engine, name)))
