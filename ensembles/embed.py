"""The ensemble of the embed task: text -> tokenizer -> encoder -> pooler -> embedding.

text ─► NAME_tokenizer ─► input_ids, attention_mask[, token_type_ids] ─► NAME_encoder ─► last_hidden_state ─┐
            │                     └──────── attention_mask ────────────────► NAME_pooler ◄──────────────────┘
            └─► num_input_tokens                                                └─► embedding

Tokenizer and pooler run on the CPU, wherever the encoder does. The options of ONNX Runtime's TensorRT provider are
those of triton-inference-server/onnxruntime_backend (README.md, "ONNX Runtime with TensorRT optimization").
"""

from dataclasses import dataclass
from typing import Any, Literal

from ensembles.model import Accelerator, Batching, Ensemble, Model, Step, Tensor

Pooling = Literal["mean", "cls", "max", "mean_sqrt_len"]
Runtime = Literal["onnx_cpu", "onnx_cuda", "onnx_tensorrt", "tensorrt"]
"""What runs the encoder: ONNX Runtime with one of its providers, or TensorRT with a plan of its own."""

TEXT = Tensor("text", "BYTES", (1,))
NUM_INPUT_TOKENS = Tensor("num_input_tokens", "INT32", (1,))

# See `Batching`: a bounded queue over one instance stalls.
BOUNDED_INSTANCES = 2
# Scratch memory of one layer; TensorRT takes what it needs, and drops kernels that need more.
WORKSPACE_BYTES = 4 << 30


@dataclass(frozen=True)
class EmbedSpec:
    """What the embed ensemble must know of a checkpoint and its recipe.

    `encoder_inputs` are the engine's inputs in its own order; `hidden_size` is the width of the embedding.
    Lengths in tokens, `max_text_bytes` in UTF-8 bytes. `instances` of the encoder are at least 2, on each GPU if it
    runs there. `fp16` is whether its graph computes in float16; `compute_capabilities` are those that have a plan.
    """

    name: str
    encoder_inputs: tuple[str, ...]
    hidden_size: int
    pooling: Pooling
    normalize: bool
    max_tokens: int
    max_text_bytes: int
    max_batch_size: int
    max_queue_size: int
    runtime: Runtime = "onnx_cpu"
    instances: int = BOUNDED_INSTANCES
    fp16: bool = False
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShapeProfile:
    """Shapes (texts, tokens) for TensorRT: an engine takes those from `min` to `max` and is fastest at `opt`."""

    min: tuple[int, int]
    opt: tuple[int, int]
    max: tuple[int, int]


def length_buckets(max_tokens: int) -> list[int]:
    """Return the lengths that texts are padded to, ascending, `max_tokens` last.

    Triton's batcher only joins requests of equal shape: few buckets find partners, many waste less padding.
    """
    steps = [*range(8, 128, 8), *range(128, 256, 16), *range(256, 512, 32), *range(512, max_tokens, 64)]
    return [length for length in steps if length < max_tokens] + [max_tokens]


def shape_profile(max_batch_size: int, max_tokens: int) -> ShapeProfile:
    """Return the shapes that the encoder behind the tokenizer is sent.

    The smallest is one token, not the shortest bucket: the tokenizer pads a request that is a full batch by itself no
    further than to its own longest text. The best is a quarter of both limits, in a bucket: texts are mostly well below
    the longest, and of those that wait together only the equally long ones are joined.
    """
    buckets = length_buckets(max_tokens)
    usual = max(length for length in buckets if length <= max(max_tokens // 4, buckets[0]))
    return ShapeProfile(min=(1, 1), opt=(max(max_batch_size // 4, 1), usual), max=(max_batch_size, max_tokens))


def plan_file(compute_capability: str) -> str:
    """Return the name of the TensorRT plan for `compute_capability`: ``model_cc90.plan`` for "9.0"."""
    return f"model_cc{compute_capability.replace('.', '')}.plan"


def engine_cache(name: str) -> str:
    """Return the folder, in the server's container, where ONNX Runtime keeps the TensorRT engines of the model `name`.

    It makes the folder but not its parents, and takes an engine for the right one without a look at the weights: mount
    another one there for other weights.
    """
    return f"/var/cache/tensorrt-{name}"


def embed_ensemble(spec: EmbedSpec) -> Ensemble:
    """Compose the three models of `spec` and wire them."""
    tokenizer, encoder, pooler = _tokenizer(spec), _encoder(spec), _pooler(spec)
    (hidden,), (embedding,) = encoder.outputs, pooler.outputs
    return Ensemble(
        name=spec.name,
        max_batch_size=spec.max_batch_size,
        inputs=(TEXT,),
        outputs=(embedding, NUM_INPUT_TOKENS),
        steps=(
            Step(tokenizer, {"text": "text"}, {tensor.name: tensor.name for tensor in tokenizer.outputs}),
            Step(encoder, {tensor.name: tensor.name for tensor in encoder.inputs}, {hidden.name: hidden.name}),
            Step(pooler, {tensor.name: tensor.name for tensor in pooler.inputs}, {embedding.name: embedding.name}),
        ),
    )


def _tokenizer(spec: EmbedSpec) -> Model:
    return Model(
        name=f"{spec.name}_tokenizer",
        backend="tokenizer",
        max_batch_size=spec.max_batch_size,
        inputs=(TEXT,),
        outputs=(*_tokens(spec), NUM_INPUT_TOKENS),
        batching=Batching(max_queue_size=spec.max_queue_size),
        instances=BOUNDED_INSTANCES,
        parameters={
            "length_buckets": ",".join(map(str, length_buckets(spec.max_tokens))),
            "max_text_bytes": str(spec.max_text_bytes),
        },
    )


def _encoder(spec: EmbedSpec) -> Model:
    return Model(
        name=f"{spec.name}_encoder",
        max_batch_size=spec.max_batch_size,
        inputs=_tokens(spec),
        outputs=(_hidden(spec),),
        batching=Batching(max_queue_size=spec.max_queue_size),
        instances=spec.instances,
        **_placement(spec),
    )


def _placement(spec: EmbedSpec) -> dict[str, Any]:
    """What of the encoder's model depends on its runtime."""
    match spec.runtime:
        case "onnx_cpu":
            return {"backend": "onnxruntime"}
        case "onnx_cuda":
            return {"backend": "onnxruntime", "on_gpu": True}
        case "onnx_tensorrt":
            return {"backend": "onnxruntime", "on_gpu": True, "accelerator": Accelerator("tensorrt", _options(spec))}
        case "tensorrt":
            plans = {capability: plan_file(capability) for capability in spec.compute_capabilities}
            return {"backend": "tensorrt", "on_gpu": True, "files_by_capability": plans}


def _options(spec: EmbedSpec) -> dict[str, str]:
    """The options of ONNX Runtime's TensorRT provider.

    TensorRT 10 needs to be told of a graph in float16; TensorRT 11, which takes the types as they are, ignores it.
    """
    profile = shape_profile(spec.max_batch_size, spec.max_tokens)
    shapes = {"min": profile.min, "opt": profile.opt, "max": profile.max}
    return {
        "precision_mode": "FP16" if spec.fp16 else "FP32",
        "max_workspace_size_bytes": str(WORKSPACE_BYTES),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": engine_cache(spec.name),
        **{
            f"trt_profile_{key}_shapes": ",".join(f"{name}:{texts}x{tokens}" for name in spec.encoder_inputs)
            for key, (texts, tokens) in shapes.items()
        },
    }


def _pooler(spec: EmbedSpec) -> Model:
    return Model(
        name=f"{spec.name}_pooler",
        backend="pooler",
        max_batch_size=spec.max_batch_size,
        inputs=(_hidden(spec), Tensor("attention_mask", "INT64", (-1,))),
        outputs=(Tensor("embedding", "FP32", (spec.hidden_size,)),),
        # Fed by a bounded step alone: nothing can pile up here.
        batching=Batching(),
        parameters={"pooling": spec.pooling, "normalize": str(spec.normalize).lower()},
    )


def _tokens(spec: EmbedSpec) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, "INT64", (-1,)) for name in spec.encoder_inputs)


def _hidden(spec: EmbedSpec) -> Tensor:
    return Tensor("last_hidden_state", "FP32", (-1, spec.hidden_size))
