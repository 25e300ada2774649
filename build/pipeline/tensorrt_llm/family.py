"""The five families that are converted: what a Hugging Face config.json says of them, in one vocabulary. Pure.

It knows nothing of tensors. What TensorRT-LLM 1.2.1 cannot carry of a family is refused here, since its own converter
drops it without a word (`from_hugging_face` in tensorrt_llm/models/{llama,qwen,gpt}/config.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ensembles.errors import near_miss
from pipeline.checkpoint import CheckpointError

# The scalings of a rotary embedding that TensorRT-LLM's attention computes for these families.
ROTARY = ("linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True)
class Family:
    """What all checkpoints of one model_type have in common.

    `prefix` begins the names of all tensors but lm_head. `carried` holds the only value that a key may have, where it
    is there at all.
    """

    architecture: str
    prefix: str
    carried: Mapping[str, Any]


FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", "model.", {"hidden_act": "silu", "mlp_bias": False}),
    "mistral": Family("MistralForCausalLM", "model.", {"hidden_act": "silu"}),
    "qwen2": Family("Qwen2ForCausalLM", "model.", {"hidden_act": "silu", "use_sliding_window": False}),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        "model.",
        {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False},
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        "transformer.",
        {
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
    ),
}


@dataclass(frozen=True)
class Model:
    """A decoder's sizes, in the words of TensorRT-LLM.

    `attention_bias`: the query, key and value projections have biases. `rotary_scaling` is what transformers 4 calls
    rope_scaling, None for the plain embedding and for GPT-2, which has none.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    positions: int
    norm_epsilon: float
    tied: bool
    attention_bias: bool
    rotary_base: float = 10000.0
    rotary_scaling: Mapping[str, Any] | None = None


def require_family(subject: object, config: Mapping[str, Any]) -> str:
    """Return the model_type of a config.json.

    Raises CheckpointError: it is no family of ours, not a language model of it, or its weights are quantised.
    """
    name = str(config.get("model_type", "")) if isinstance(config, Mapping) else ""
    if name not in FAMILIES:
        raise CheckpointError(
            f"checkpoint {subject} is of model_type '{name}'; TensorRT-LLM checkpoints are made of "
            f"{', '.join(FAMILIES)}{near_miss(name, FAMILIES)}"
        )
    family = FAMILIES[name]
    architectures = config.get("architectures") or [family.architecture]
    if architectures[0] != family.architecture:
        raise CheckpointError(
            f"checkpoint {subject} is a {architectures[0]}; of model_type '{name}' only {family.architecture} generates"
        )
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, Mapping) else quantised
        raise CheckpointError(
            f"checkpoint {subject} is quantised already (quant_method '{method}'); convert the one that it was made of"
        )
    for key, carried in family.carried.items():
        if config.get(key) not in (None, carried):
            raise CheckpointError(
                f"checkpoint {subject} has {key} {config[key]!r}; TensorRT-LLM's {family.architecture} knows only "
                f"{carried!r}"
            )
    return name


def read_model(subject: object, config: Mapping[str, Any]) -> Model:
    """Return the sizes of the decoder that `config`, a Hugging Face config.json, declares.

    Raises CheckpointError, which names `subject`: a key is missing or senseless, or of a kind not carried.
    """
    family = require_family(subject, config)
    model = _gpt2(subject, config) if family == "gpt2" else _llama(subject, config, family)
    if model.heads % model.kv_heads:
        raise CheckpointError(
            f"checkpoint {subject} has {model.heads} attention heads, which its {model.kv_heads} key-value heads do "
            "not divide"
        )
    return model


def _llama(subject: object, config: Mapping[str, Any], family: str) -> Model:
    """Llama and what descends from it; what a key means that is missing or null is transformers' default."""
    hidden, heads = _size(subject, config, "hidden_size"), _size(subject, config, "num_attention_heads")
    base, scaling = _rotary(subject, config)
    return Model(
        family=family,
        vocab_size=_size(subject, config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_size(subject, config, "intermediate_size"),
        layers=_size(subject, config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size(subject, config, "num_key_value_heads", heads),
        head_size=_size(subject, config, "head_dim", hidden // heads),
        positions=_size(subject, config, "max_position_embeddings"),
        norm_epsilon=_epsilon(subject, config, "rms_norm_eps"),
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_bias=family == "qwen2" or (family == "llama" and bool(config.get("attention_bias"))),
        rotary_base=base,
        rotary_scaling=scaling,
    )


def _gpt2(subject: object, config: Mapping[str, Any]) -> Model:
    hidden, heads = _size(subject, config, "n_embd"), _size(subject, config, "n_head")
    if hidden % heads:
        raise CheckpointError(f"checkpoint {subject} has n_embd {hidden}, which n_head {heads} does not divide")
    return Model(
        family="gpt2",
        vocab_size=_size(subject, config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_size(subject, config, "n_inner", 4 * hidden),
        layers=_size(subject, config, "n_layer"),
        heads=heads,
        kv_heads=heads,
        head_size=hidden // heads,
        positions=_size(subject, config, "n_positions"),
        norm_epsilon=_epsilon(subject, config, "layer_norm_epsilon"),
        tied=bool(config.get("tie_word_embeddings", True)),
        attention_bias=True,
    )


def _size(subject: object, config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"checkpoint {subject}: config.json has {key} {value!r}, not a whole number above 0")
    return value


def _epsilon(subject: object, config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if not isinstance(value, float):
        raise CheckpointError(f"checkpoint {subject}: config.json has {key} {value!r}, not a small number")
    return value


def _rotary(subject: object, config: Mapping[str, Any]) -> tuple[float, Mapping[str, Any] | None]:
    """The base and scaling of the rotary embedding: transformers 5 nests both under rope_parameters."""
    nested = dict(config.get("rope_parameters") or {})
    base = nested.pop("rope_theta", config.get("rope_theta", 10000.0))
    scaling = nested or config.get("rope_scaling") or {}
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    part = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part not in (None, 1.0):
        raise CheckpointError(
            f"checkpoint {subject} rotates only {part} of each head; TensorRT-LLM would rotate all of it"
        )
    if kind == "default":
        return base, None
    if kind not in ROTARY:
        raise CheckpointError(
            f"checkpoint {subject} has a rotary embedding of type '{kind}'; default, {', '.join(ROTARY)} are carried"
            f"{near_miss(kind, ROTARY)}"
        )
    return base, {key: value for key, value in scaling.items() if key != "partial_rotary_factor"}
