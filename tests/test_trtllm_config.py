"""config.json of a TensorRT-LLM checkpoint: every key that its reader knows, and what Hugging Face's is refused for."""

from typing import Any

import pytest
from trtllm_checkpoints import ARCHITECTURES, CONFIG, config_of

from pipeline.checkpoint import CheckpointError
from pipeline.tensorrt_llm.family import read_model
from pipeline.tensorrt_llm.rank_config import rank_config
from pipeline.tensorrt_llm.split import Split, require_split

# What TensorRT-LLM's own converter writes, written down from its files.
ALL = """
architecture dtype vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_size hidden_act
logits_dtype norm_epsilon runtime_defaults position_embedding_type intermediate_size max_position_embeddings
use_parallel_embedding embedding_sharding_dim qk_layernorm rotary_embedding_dim rotary_base rotary_scaling mapping
quantization moe
"""
LLAMA = """
tie_word_embeddings mlp_bias attn_bias residual_mlp disable_weight_only_quant_plugin remove_duplicated_kv_heads
fc_after_embed use_input_layernorm_in_first_layer use_last_layernorm layer_idx_offset
"""
QWEN = """
tie_word_embeddings mlp_bias attn_bias disable_weight_only_quant_plugin qwen_type seq_length use_logn_attn num_labels
moe_intermediate_size moe_shared_expert_intermediate_size
"""
GPT2 = """
gpt_variant bias q_scaling embedding_scale apply_query_key_layer_scaling rotary_pct inner_layernorm norm_before_bmm1
"""
OWN = {"llama": LLAMA, "mistral": LLAMA, "qwen2": QWEN, "qwen3": QWEN, "gpt2": GPT2}
MAPPING = "world_size gpus_per_node cp_size tp_size pp_size moe_tp_size moe_ep_size"
QUANTIZATION = """
quant_algo kv_cache_quant_algo group_size smoothquant_val clamp_val use_meta_recipe has_zero_point pre_quant_scale
exclude_modules
"""
MOE = """
num_experts shared_expert_intermediate_size top_k normalization_mode sparse_mixer_epsilon tp_mode device_limited_n_group
device_limited_topk_group device_limited_routed_scaling_factor
"""


def ranks_config(config: dict[str, Any], split: Split | None = None) -> dict[str, Any]:
    return rank_config(read_model("here", config), split or Split())


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_all_keys_are_there_and_no_others(family: str) -> None:
    made = ranks_config(config_of(family))
    assert made.keys() == {*ALL.split(), *OWN[family].split()}
    assert made["mapping"].keys() == set(MAPPING.split())
    assert made["quantization"].keys() == set(QUANTIZATION.split())
    assert made["moe"].keys() == set(MOE.split())


@pytest.mark.parametrize(
    ("family", "values"),
    [
        (
            "llama",
            {
                "architecture": "LlamaForCausalLM",
                "dtype": "bfloat16",
                "vocab_size": 37,  # without padding
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_size": 4,
                "hidden_act": "silu",
                "max_position_embeddings": 64,
                "norm_epsilon": 1e-6,
                "position_embedding_type": "rope_gpt_neox",
                "rotary_base": 500000.0,
                "rotary_scaling": None,
                "attn_bias": False,
                "tie_word_embeddings": False,
            },
        ),
        ("mistral", {"architecture": "MistralForCausalLM", "attn_bias": False}),
        ("qwen2", {"architecture": "Qwen2ForCausalLM", "attn_bias": True, "qwen_type": "qwen2", "seq_length": 8192}),
        (
            "qwen3",
            {"architecture": "Qwen3ForCausalLM", "attn_bias": False, "qwen_type": "qwen3", "qk_layernorm": False},
        ),
        (
            "gpt2",
            {
                "architecture": "GPT2LMHeadModel",
                "gpt_variant": "gpt2",
                "position_embedding_type": "learned_absolute",
                "hidden_act": "gelu_new",
                "hidden_size": 16,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_key_value_heads": 4,
                "head_size": 4,
                "max_position_embeddings": 10,
                "norm_epsilon": 1e-5,
                "bias": True,
            },
        ),
    ],
)
def test_each_family_says_its_own(family: str, values: dict[str, Any]) -> None:
    made = ranks_config(config_of(family), Split(dtype="bfloat16"))
    assert {key: made[key] for key in values} == values


def test_the_split_stands_in_mapping_and_quantization() -> None:
    made = ranks_config(config_of("llama"), Split(4, 2, "float16", "W4A16"))
    assert made["dtype"] == "float16"
    assert made["mapping"] == {
        "world_size": 8,
        "gpus_per_node": 8,
        "cp_size": 1,
        "tp_size": 4,
        "pp_size": 2,
        "moe_tp_size": 4,
        "moe_ep_size": 1,
    }
    assert made["quantization"]["quant_algo"] == "W4A16"
    assert ranks_config(config_of("llama"))["quantization"]["quant_algo"] is None


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("changes", "base", "scaling"),
    [
        # transformers 5 nests all of it, transformers 4 none.
        ({"rope_parameters": {"rope_theta": 5e5, **LLAMA3}}, 5e5, LLAMA3),
        ({"rope_parameters": None, "rope_theta": 5e5, "rope_scaling": LLAMA3}, 5e5, LLAMA3),
        ({"rope_parameters": None, "rope_theta": 1e6, "rope_scaling": None}, 1e6, None),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
            10000.0,
            {"type": "linear", "factor": 2.0},
        ),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 1e6, None),
        ({"rope_parameters": {"rope_theta": 7.0, "rope_type": "default", "partial_rotary_factor": 1.0}}, 7.0, None),
        ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 9.0}, 9.0, None),
    ],
)
def test_the_rotary_embedding_is_found_wherever_it_is_declared(
    changes: dict[str, Any], base: float, scaling: dict[str, Any] | None
) -> None:
    made = ranks_config(config_of("llama", **changes))
    assert (made["rotary_base"], made["rotary_scaling"]) == (base, scaling)


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"head_dim": None}, "head_size", 4),
        ({"head_dim": 128}, "head_size", 128),
        ({"head_dim": 128}, "rotary_embedding_dim", 128),
        ({"num_key_value_heads": None}, "num_key_value_heads", 4),
        ({"tie_word_embeddings": None}, "tie_word_embeddings", False),
        ({"attention_bias": True}, "attn_bias", True),
    ],
)
def test_what_a_config_leaves_out_or_null(changes: dict[str, Any], key: str, value: object) -> None:
    config = {**config_of("llama"), **changes}
    absent = {name: given for name, given in config.items() if given is not None}
    assert ranks_config(config)[key] == ranks_config(absent)[key] == value


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"model_type": "lama"}, "model_type 'lama'; .* llama, mistral, .*; did you mean 'llama'?"),
        ("llama", {"model_type": None}, "is of model_type ''"),
        ("llama", {"architectures": ["LlamaModel"]}, "is a LlamaModel; of model_type 'llama' only LlamaForCausalLM"),
        (
            "llama",
            {"quantization_config": {"quant_method": "gptq"}},
            r"quantised already \(quant_method 'gptq'\); convert the one that it was made of",
        ),
        ("llama", {"mlp_bias": True}, "mlp_bias True; TensorRT-LLM's LlamaForCausalLM knows only False"),
        ("mistral", {"hidden_act": "gelu"}, "hidden_act 'gelu'; .* knows only 'silu'"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window True"),
        ("qwen3", {"attention_bias": True}, "attention_bias True"),
        ("gpt2", {"activation_function": "relu"}, "activation_function 'relu'; .* knows only 'gelu_new'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ("gpt2", {"n_layer": None}, "n_layer None, not a whole number above 0"),
        ("llama", {"hidden_size": 0}, "hidden_size 0, not a whole number"),
        ("llama", {"vocab_size": "many"}, "vocab_size 'many', not a whole number"),
        ("llama", {"rms_norm_eps": None}, "rms_norm_eps None, not a small number"),
        ("llama", {"num_key_value_heads": 3}, "4 attention heads, which its 3 key-value heads do not divide"),
        ("gpt2", {"n_embd": 18}, "n_embd 18, which n_head 4 does not divide"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1.0, "rope_type": "llama4"}},
            "rotary embedding of type 'llama4'; .*; did you mean 'llama3'?",
        ),
        ("llama", {"partial_rotary_factor": 0.5}, "rotates only 0.5 of each head"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "rotates only 0.5 of each head"),
    ],
)
def test_what_is_not_carried_is_refused(family: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_model("here", config_of(family, **changes))


@pytest.mark.parametrize(
    ("changes", "split", "words"),
    [
        ({}, Split(tp=3), "4 attention heads, which tp 3 does not divide"),
        ({"intermediate_size": 25}, Split(tp=2), "25 rows in its MLP, which tp 2 does not divide"),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 6},
            Split(tp=4),
            "6 key-value heads: tp 4 neither divides them nor repeats each",
        ),
        ({}, Split(pp=4), "3 layers, too few for pp 4"),
        ({}, Split(tp=0), "tp 0 and pp 1 must be at least 1"),
        ({}, Split(quantisation="W8A16"), "hidden_size 16; W8A16 at tp 1 needs a multiple of 64"),
        (
            {"hidden_size": 256, "intermediate_size": 192, "head_dim": 64},
            Split(tp=2, quantisation="W4A16"),
            "intermediate_size 192; W4A16 at tp 2 needs a multiple of 128",
        ),
        (
            {"hidden_size": 256, "intermediate_size": 256, "head_dim": 40, "num_attention_heads": 8},
            Split(quantisation="W4A16"),
            r"query, key and value rows 480; W4A16 at tp 1 needs a multiple of 64",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(changes: dict[str, Any], split: Split, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        require_split("here", read_model("here", config_of("llama", **changes)), split)


def test_what_divides_is_not_refused() -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_key_value_heads": 1}
    for split in (Split(4, 3), Split(4, 1, "float16", "W4A16"), Split(2, 2, "bfloat16", "W8A16")):
        require_split("here", read_model("here", config_of("llama", **sizes)), split)
    assert CONFIG["num_hidden_layers"] == 3  # so pp 2 above is uneven, and fine
