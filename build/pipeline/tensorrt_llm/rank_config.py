"""A TensorRT-LLM checkpoint's config.json: one for all ranks, which trtllm-build reads. Pure.

The keys and values are those that TensorRT-LLM 1.2.1's converter writes for each family (`to_dict` in
tensorrt_llm/models/{modeling_utils.py, llama/config.py, qwen/config.py, gpt/config.py}, mapping.py, layers/moe.py).
"""

from typing import Any

from pipeline.tensorrt_llm.family import FAMILIES, Model
from pipeline.tensorrt_llm.split import Split

# How MoE routing would be normalised, had these models any: Llama's converter says none, Qwen's 0, GPT's 1.
MOE_NORMALISATION = {"llama": None, "mistral": None, "qwen2": 0, "qwen3": 0, "gpt2": 1}


def rank_config(model: Model, split: Split) -> dict[str, Any]:
    """Return the config.json of `model`, split as `split` says."""
    own = {"gpt2": _gpt2, "qwen2": _qwen, "qwen3": _qwen}.get(model.family, _llama)
    return {
        "architecture": FAMILIES[model.family].architecture,
        "dtype": split.dtype,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_size": model.head_size,
        "hidden_act": "gelu_new" if model.family == "gpt2" else "silu",
        "logits_dtype": "float32",
        "norm_epsilon": model.norm_epsilon,
        "runtime_defaults": None,
        "position_embedding_type": "learned_absolute" if model.family == "gpt2" else "rope_gpt_neox",
        "intermediate_size": model.intermediate_size,
        "max_position_embeddings": model.positions,
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "qk_layernorm": False,  # false for Qwen3 too: its model class has the norms by itself
        "rotary_embedding_dim": model.head_size,
        "rotary_base": model.rotary_base,
        "rotary_scaling": dict(model.rotary_scaling) if model.rotary_scaling else None,
        "mapping": _mapping(split),
        "quantization": _quantization(split),
        "moe": _moe(model),
        **own(model),
    }


def _llama(model: Model) -> dict[str, Any]:
    return {
        "tie_word_embeddings": model.tied,
        "mlp_bias": False,
        "attn_bias": model.attention_bias,
        "residual_mlp": False,
        "disable_weight_only_quant_plugin": False,
        "remove_duplicated_kv_heads": False,
        "fc_after_embed": False,
        "use_input_layernorm_in_first_layer": True,
        "use_last_layernorm": True,
        "layer_idx_offset": 0,
    }


def _qwen(model: Model) -> dict[str, Any]:
    return {
        "tie_word_embeddings": model.tied,
        "qwen_type": model.family,
        "mlp_bias": False,
        "attn_bias": model.attention_bias,
        "disable_weight_only_quant_plugin": False,
        "seq_length": 8192,
        "use_logn_attn": False,
        "num_labels": 1,
        "moe_intermediate_size": 0,
        "moe_shared_expert_intermediate_size": 0,
    }


def _gpt2(model: Model) -> dict[str, Any]:
    return {
        "gpt_variant": "gpt2",
        "bias": model.attention_bias,
        "q_scaling": 1,
        "embedding_scale": None,
        "apply_query_key_layer_scaling": False,
        "rotary_pct": 1.0,
        "inner_layernorm": False,
        "norm_before_bmm1": False,
    }


def _mapping(split: Split) -> dict[str, int]:
    return {
        "world_size": split.ranks,
        "gpus_per_node": 8,
        "cp_size": 1,
        "tp_size": split.tp,
        "pp_size": split.pp,
        "moe_tp_size": split.tp,
        "moe_ep_size": 1,
    }


def _quantization(split: Split) -> dict[str, Any]:
    return {
        "quant_algo": split.quantisation,
        "kv_cache_quant_algo": None,
        "group_size": 128,
        "smoothquant_val": 0.5,
        "clamp_val": None,
        "use_meta_recipe": False,
        "has_zero_point": False,
        "pre_quant_scale": False,
        "exclude_modules": None,
    }


def _moe(model: Model) -> dict[str, Any]:
    return {
        "num_experts": 0,
        "shared_expert_intermediate_size": 0,
        "top_k": 0,
        "normalization_mode": MOE_NORMALISATION[model.family],
        "sparse_mixer_epsilon": 0.01,
        "tp_mode": 0,
        "device_limited_n_group": 0,
        "device_limited_topk_group": 0,
        "device_limited_routed_scaling_factor": 1.0,
    }
