"""What an engine takes of each GPU's memory, from its recipe and the checkpoint's config.json alone. Pure.

Weights and key-value cache are exact; activations, sampling and the fixed overhead are estimates, held against logs of
real engines in docs/gpu-memory.md, where every formula is. All sizes in bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from pipeline.checkpoint import CheckpointError
from pipeline.gpu_engines import (
    LlmApiEngine,
    OnnxDecoderEngine,
    OnnxEncoderEngine,
    TensorRtEngine,
    TensorRtLlmEngine,
)
from pipeline.recipe import EmbedLimits, GenerateLimits
from pipeline.tensorrt_llm.family import Model
from pipeline.tensorrt_llm.layout import layout
from pipeline.tensorrt_llm.quantised_checkpoint import LINEAR, Quantisation, expected_tensors
from pipeline.tensorrt_llm.settings import checkpoint_settings
from pipeline.tensorrt_llm.split import Split

DecoderEngine: TypeAlias = TensorRtLlmEngine | LlmApiEngine | OnnxDecoderEngine
EncoderEngine: TypeAlias = OnnxEncoderEngine | TensorRtEngine

GIB = 2**30
# The CUDA context, the kernels of TensorRT and cuBLAS, and what the driver keeps of the memory that nvidia-smi tells.
CONTEXT = 3 * GIB // 2
# Buffers of NCCL and of the all-reduce among the GPUs of one engine.
NCCL = GIB
# PyTorch's CUDA graphs, and the slack of its allocator.
PYTORCH = 3 * GIB // 2
# Rows of float32 logits that the runtime's buffers and the sampling keep for each request.
SAMPLING = 10
# Tokens of each prompt that `onnx_generate` prefills in a step.
PREFILL = 64

# By the names of config.json, of recipes, and of safetensors' headers.
ITEM = {"float32": 4, "float16": 2, "bfloat16": 2, "fp32": 4, "fp16": 2}
STORED = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1}
WEIGHT_BITS = {"W8A16": 8, "W4A16": 4}


@dataclass(frozen=True)
class Memory:
    """What one GPU holds; `cache_token` is what one token of one request takes there, 0 for an encoder."""

    weights: int
    activations: int
    overhead: int
    cache_token: int = 0

    @property
    def fixed(self) -> int:
        """All that does not depend on how many tokens are kept."""
        return self.weights + self.activations + self.overhead


def decoder_memory(
    engine: DecoderEngine, limits: GenerateLimits, model: Model, config: Mapping[str, Any]
) -> list[Memory]:
    """Return what each rank holds; `model` is what `config`, the checkpoint's config.json, declares.

    The key-value cache is left out: it takes what is left, by the token.
    """
    split = split_of(engine)
    item, cache_item = _items(engine, config)
    stages = split.stages(model.layers)
    # Fewer heads than ranks: each rank keeps one, which its neighbours keep too.
    kv_heads = max(model.kv_heads // split.tp, 1)
    activations = _activations(engine, limits, model, item)
    return [
        Memory(
            weights=weights,
            activations=activations,
            overhead=_overhead(engine, split),
            cache_token=2 * len(stages[rank // split.tp]) * kv_heads * model.head_size * cache_item,
        )
        for rank, weights in enumerate(_weights(engine, split, model, item))
    ]


def split_of(engine: DecoderEngine) -> Split:
    """Return how `engine` is split over GPUs."""
    match engine:
        case TensorRtLlmEngine():
            settings = checkpoint_settings(engine)
            return settings if isinstance(settings, Split) else settings.split
        case LlmApiEngine():
            return Split(engine.tp, engine.pp)
        case OnnxDecoderEngine():
            return Split()


def _items(engine: DecoderEngine, config: Mapping[str, Any]) -> tuple[int, int]:
    """The bytes of one number of the weights that are not quantised, and of one of the cache."""
    match engine:
        case TensorRtLlmEngine():
            return ITEM[engine.dtype], 1 if engine.kv_cache else ITEM[engine.dtype]
        case LlmApiEngine(dtype="auto"):
            # transformers 5 calls it dtype.
            item = ITEM[config.get("torch_dtype") or config.get("dtype") or "float32"]
        case LlmApiEngine():
            item = ITEM[engine.dtype]
        case OnnxDecoderEngine():
            item = ITEM[engine.precision]
    return item, item


def _weights(engine: DecoderEngine, split: Split, model: Model, item: int) -> list[int]:
    """The bytes of each rank's weights, their scales included."""
    settings = checkpoint_settings(engine) if isinstance(engine, TensorRtLlmEngine) else split
    if isinstance(settings, Quantisation):
        ranks = expected_tensors(model, settings)
        return [sum(STORED[dtype] * prod(shape) for dtype, shape in rank.values()) for rank in ranks]
    bits = WEIGHT_BITS.get(settings.quantisation or "")
    targets = layout(model, split).targets
    return [sum(_tensor(name, shape, item, bits) for name, shape in rank.items()) for rank in targets]


def _tensor(name: str, shape: tuple[int, ...], item: int, bits: int | None) -> int:
    """The bytes of one tensor; trtllm-build quantises the linear layers of the blocks to `bits`, a scale a row."""
    layer, _, kind = name.rpartition(".")
    if bits and kind == "weight" and layer.endswith(LINEAR):
        return prod(shape) * bits // 8 + shape[0] * item
    return prod(shape) * item


def _activations(engine: DecoderEngine, limits: GenerateLimits, model: Model, item: int) -> int:
    """What a step takes of each rank beside weights and cache."""
    rows = limits.slots
    match engine:
        case TensorRtLlmEngine():
            tokens = engine.build.max_num_tokens
            rows = tokens if engine.build.gather_context_logits else rows
        case LlmApiEngine():
            tokens = engine.max_num_tokens
        case OnnxDecoderEngine():
            tokens = PREFILL * limits.slots
    tp = split_of(engine).tp
    return layer_memory(model, item, tp, tokens, rows) + logits_memory(model, rows, limits.slots)


def layer_memory(model: Model, item: int, tp: int, tokens: int, rows: int) -> int:
    """Return what TensorRT-LLM calls execution context memory: the tensors of one layer, for a step of `tokens`.

    Layers take turns in the same memory. `rows` of logits, of `item` bytes a number, lie beside it.
    """
    return item * (tokens * (4 * model.hidden_size + 3 * model.intermediate_size // tp) + rows * model.vocab_size)


def logits_memory(model: Model, rows: int, slots: int) -> int:
    """Return what it calls runtime buffers and decoder: `rows` of logits in float32, and what sampling keeps a slot."""
    return ITEM["float32"] * model.vocab_size * (rows + SAMPLING * slots)


def _overhead(engine: DecoderEngine, split: Split) -> int:
    return CONTEXT + (NCCL if split.ranks > 1 else 0) + (PYTORCH if isinstance(engine, LlmApiEngine) else 0)


def encoder_memory(engine: EncoderEngine, limits: EmbedLimits, subject: object, config: Mapping[str, Any]) -> Memory:
    """Return what each GPU holds of the encoder that `config`, the config.json of checkpoint `subject`, declares.

    Every instance has activations of its own for the largest batch of the longest texts; ONNX Runtime gives each its
    own weights too, TensorRT one copy to all.

    Raises CheckpointError: a key is missing.
    """

    def size(*names: str) -> int:
        for name in names:
            if name in config:
                return int(config[name])
        raise CheckpointError(f"checkpoint {subject}: config.json lacks the key '{names[0]}'")

    # DistilBERT has its own names, and no token types.
    hidden, inner = size("hidden_size", "dim"), size("intermediate_size", "hidden_dim")
    layers, heads = size("num_hidden_layers", "n_layers"), size("num_attention_heads", "n_heads")
    rows = size("vocab_size") + size("max_position_embeddings") + int(config.get("type_vocab_size", 0))
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    item = ITEM[engine.precision]
    tokens = limits.max_batch_size * limits.max_tokens
    scores = 2 * tokens * heads * limits.max_tokens
    activations = item * (4 * tokens * hidden + max(scores, 2 * tokens * inner)) + ITEM["float32"] * tokens * hidden
    copies = engine.instances if isinstance(engine, OnnxEncoderEngine) else 1
    return Memory(
        weights=copies * item * (rows * hidden + 2 * hidden + layers * layer),
        activations=engine.instances * activations,
        overhead=CONTEXT,
    )
