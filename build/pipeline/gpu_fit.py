"""Whether an engine fits into the memory of its GPUs, and what mends it where it does not: asked before it is built.

What it takes is `gpu_memory`'s; here are what is left for the key-value cache, the verdict and its words. The cache
gets its share of what is left beside weights, activations and overhead, as TensorRT-LLM 1.2.1 takes it
(`KvCacheConfig.free_gpu_memory_fraction`; docs/gpu-memory.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

from ensembles.errors import YardError
from pipeline.checkpoint import CheckpointError, described, is_here, read_json
from pipeline.gpu import FP8_SINCE, KNOWN, Gpu, KnownGpu, known_gpu
from pipeline.gpu_engines import WEIGHT_ONLY, LlmApiEngine, OnnxDecoderEngine, TensorRtEngine, TensorRtLlmEngine
from pipeline.gpu_memory import DecoderEngine, Memory, decoder_memory, encoder_memory, split_of
from pipeline.recipe import EmbedRecipe, GenerateLimits, GenerateRecipe, Recipe
from pipeline.tensorrt_llm.family import read_model
from pipeline.tensorrt_llm.split import require_split

MIB = 2**20
GB = 1e9
# The least that limits.max_tokens may be.
LEAST_TOKENS = 64
# Needs tensor cores that take FP8.
FP8 = ("fp8", "w4a8_awq")

Verdict = Literal["fits", "fits with paging", "does not fit", "cannot run"]


class FitError(YardError):
    """An engine does not fit into the memory of its GPUs, or cannot run on them."""


@dataclass(frozen=True)
class Fit:
    """How one recipe lies in GPUs like `gpu`; `memory` is what the tightest of its ranks holds.

    `cache` bytes, `tokens` tokens are what the key-value cache gets; both 0 for an encoder. `requests` of them, each of
    the full length that the limits allow, fit at once, of `slots` that may run. `short` bytes are missing. `unsuited`
    says why such a GPU cannot run the engine at all.
    """

    gpu: KnownGpu
    memory: Memory
    cache: int
    tokens: int
    requests: int
    slots: int
    short: int
    paged: bool
    unsuited: str | None = None

    @property
    def total(self) -> int:
        """The bytes of one GPU."""
        return self.gpu.memory_mib * MIB

    @property
    def verdict(self) -> Verdict:
        """Whether all slots fit at full length, fewer, or not even one."""
        if self.unsuited:
            return "cannot run"
        if self.short:
            return "does not fit"
        return "fits" if self.requests >= self.slots else "fits with paging"

    @property
    def is_good(self) -> bool:
        """Whether the engine can be served."""
        return self.verdict in ("fits", "fits with paging")


def config_of(recipe: Recipe) -> Mapping[str, Any]:
    """Return the config.json of a recipe's checkpoint: the one committed beside the recipe, or the checkpoint's own.

    Downloads nothing. Raises CheckpointError: there is neither, or it is broken.
    """
    if not recipe.file.with_suffix("").is_dir() and not is_here(recipe.checkpoint):
        raise CheckpointError(
            f"checkpoint {recipe.checkpoint} is not on this machine; write what its config.json says into "
            f"{recipe.file.with_suffix('')}/config.json, or download it by `yard engines {recipe.name} --profile gpu`"
        )
    folder = described(recipe)
    if folder.is_file():
        raise CheckpointError(
            f"checkpoint {recipe.checkpoint} is a GGUF file, which has no config.json; `yard engines {recipe.name} "
            "--profile gpu` converts it, and asks then whether it fits"
        )
    config: Mapping[str, Any] = read_json(folder / "config.json")
    return config


def meant_for(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the GPUs, keys of KNOWN, that `recipe` is for.

    A recipe that names compute capabilities is for the smallest GPU of each, one that names nothing for the smallest.
    """
    engine = recipe.engine.gpu
    if isinstance(engine, TensorRtLlmEngine | LlmApiEngine) and engine.gpus:
        return engine.gpus
    if isinstance(engine, TensorRtEngine):
        return tuple(name for each in engine.compute_capabilities if (name := _smallest(each)))
    return (min(KNOWN, key=lambda name: KNOWN[name].memory_mib),)


def _smallest(capability: str) -> str | None:
    names = [name for name, gpu in KNOWN.items() if gpu.compute_capability == capability]
    return min(names, key=lambda name: KNOWN[name].memory_mib, default=None)


def fit_of(recipe: Recipe, config: Mapping[str, Any], gpu: KnownGpu) -> Fit:
    """Return how the GPU engine of `recipe`, whose checkpoint has this config.json, lies in GPUs like `gpu`. Pure.

    Raises CheckpointError: the checkpoint is of a kind that is not carried, or cannot be cut as the engine is.
    """
    if isinstance(recipe, EmbedRecipe):
        return _encoder(recipe, config, gpu)
    return _decoder(recipe, config, gpu)


def _encoder(recipe: EmbedRecipe, config: Mapping[str, Any], gpu: KnownGpu) -> Fit:
    engine, total = recipe.engine.gpu, gpu.memory_mib * MIB
    assert engine, "read_recipes chooses recipes of the profile"
    unsuited = None
    if isinstance(engine, TensorRtEngine) and gpu.compute_capability not in engine.compute_capabilities:
        plans = ", ".join(engine.compute_capabilities)
        unsuited = f"its compute capability is {gpu.compute_capability}, plans are built for {plans}"
    memory = encoder_memory(engine, recipe.limits, recipe.name, config)
    short = max(memory.fixed - total, 0)
    return Fit(gpu, memory, 0, 0, 1, 1, short, paged=False, unsuited=unsuited)


def _decoder(recipe: GenerateRecipe, config: Mapping[str, Any], gpu: KnownGpu) -> Fit:
    engine, limits, total = recipe.engine.gpu, recipe.limits, gpu.memory_mib * MIB
    assert engine, "read_recipes chooses recipes of the profile"
    model = read_model(recipe.name, config)
    require_split(recipe.name, model, split_of(engine))
    fraction, most = 1.0, None
    match engine:
        case TensorRtLlmEngine():
            fraction = engine.serving.kv_cache_free_gpu_mem_fraction
            most = engine.serving.max_tokens_in_paged_kv_cache
        case LlmApiEngine():
            fraction = engine.kv_cache_free_gpu_mem_fraction
    paged = not isinstance(engine, OnnxDecoderEngine)
    # The pools of all ranks are as many tokens: the tightest decides.
    memory = min(
        decoder_memory(engine, limits, model, config), key=lambda rank: (total - rank.fixed) / rank.cache_token
    )
    left = total - memory.fixed
    room = int(max(left, 0) * fraction) // memory.cache_token
    tokens = min(room, most or room)
    needed = limits.max_tokens * (1 if paged else limits.slots)
    return Fit(
        gpu=gpu,
        memory=memory,
        cache=tokens * memory.cache_token,
        tokens=tokens,
        requests=tokens // limits.max_tokens,
        slots=limits.slots,
        short=0 if room >= needed else ceil(needed * memory.cache_token / fraction) - left,
        paged=paged,
        unsuited=_unsuited(engine, limits, gpu),
    )


def _unsuited(engine: DecoderEngine, limits: GenerateLimits, gpu: KnownGpu) -> str | None:
    """Why GPUs like `gpu` cannot run `engine`, however large they are."""
    if not isinstance(engine, TensorRtLlmEngine):
        return None
    if (engine.quantisation in FP8 or engine.kv_cache == "fp8") and not gpu.has_fp8:
        return f"its compute capability is {gpu.compute_capability}, FP8 needs {'.'.join(map(str, FP8_SINCE))}"
    most = engine.serving.max_tokens_in_paged_kv_cache
    if most and most < limits.max_tokens:
        one = f"one request of limits.max_tokens {limits.max_tokens}"
        return f"serving.max_tokens_in_paged_kv_cache {most} is less than {one}"
    return None


def require_fit(recipe: Recipe, gpus: Sequence[Gpu], folder: Path | None = None) -> None:
    """Raise FitError, with the numbers, unless the GPU engine of `recipe` fits into `gpus`, in the order of its ranks.

    Fewer GPUs than ranks are taken for GPUs of the same kind: an engine may be built where it is not served. `folder`
    holds the checkpoint's config.json where that is known; else `config_of` says where it is looked for.

    Raises CheckpointError: config.json is missing, or of a kind that is not carried.
    """
    config = config_of(recipe) if folder is None else read_json(folder / "config.json")
    engine = recipe.engine.gpu
    ranks = split_of(engine).ranks if isinstance(engine, TensorRtLlmEngine | LlmApiEngine) else len(gpus)
    kinds = {KnownGpu(gpu.memory_mib, gpu.compute_capability): gpu.name for gpu in gpus[:ranks]}
    for kind, name in kinds.items():
        found = fit_of(recipe, config, kind)
        if not found.is_good:
            raise FitError(refusal(recipe, config, name, found))


def refusal(recipe: Recipe, config: Mapping[str, Any], gpu: str, found: Fit) -> str:
    """Return why the engine of `recipe`, found not to be good on the GPU `gpu`, is refused there, and the mend."""
    # What the recipe is for comes first, then the least that there is.
    others = (*meant_for(recipe), *sorted(KNOWN, key=lambda name: KNOWN[name].memory_mib))
    best = next((name for name in others if fit_of(recipe, config, known_gpu(name)).is_good), None)
    another = f"take another GPU ({best})" if best else ""
    if found.unsuited:
        return f"engine {recipe.name} cannot run on {gpu}: {found.unsuited}; {another or 'change engine.gpu'}"
    memory, needed = found.memory, ""
    if found.paged:
        needed = f" for the cache of one request of limits.max_tokens {recipe.limits.max_tokens}"
    elif memory.cache_token:
        needed = f" for the cache of limits.slots {found.slots} of limits.max_tokens {recipe.limits.max_tokens}"
    mends = [*_mends(recipe, config, found), *([another] if another else [])]
    return (
        f"engine {recipe.name} does not fit on {gpu} ({found.total / GB:.1f} GB): weights of {memory.weights / GB:.1f} "
        f"GB, activations of {memory.activations / GB:.1f} GB and {memory.overhead / GB:.1f} GB of CUDA leave "
        f"{found.short / GB:.2f} GB too few{needed}; {', or '.join(mends) or 'it fits on no GPU that is known here'}"
    )


def _mends(recipe: Recipe, config: Mapping[str, Any], found: Fit) -> Iterator[str]:
    """What would make it fit on GPUs of `found`'s size, besides another GPU."""
    if isinstance(recipe, EmbedRecipe):
        yield "lower limits.max_batch_size or engine.gpu.instances"
        return
    longest = found.tokens // (1 if found.paged else found.slots)
    if longest >= LEAST_TOKENS:
        yield f"lower limits.max_tokens to {longest}"
    engine = recipe.engine.gpu
    if isinstance(engine, TensorRtLlmEngine | LlmApiEngine):
        plain = isinstance(engine, TensorRtLlmEngine) and not engine.quantisation
        larger = [tp for tp in (2, 4, 8, 16) if tp > engine.tp]
        for key, values in (("quantisation", WEIGHT_ONLY if plain else ()), ("tp", larger)):
            for value in values:
                if _fits_with(recipe, engine.model_copy(update={key: value}), config, found.gpu):
                    yield f"set engine.gpu.{key} to {value}"
                    break


def _fits_with(
    recipe: GenerateRecipe, engine: TensorRtLlmEngine | LlmApiEngine, config: Mapping[str, Any], gpu: KnownGpu
) -> bool:
    changed = replace(recipe, engine=recipe.engine.model_copy(update={"gpu": engine}))
    try:
        return fit_of(changed, config, gpu).is_good
    except CheckpointError:  # cannot be cut so
        return False
