"""Tiny random checkpoints of the five families, written with safetensors alone, as transformers lays them out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
CONFIG: dict[str, Any] = {
    "vocab_size": 37,  # no tp divides it
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,  # no pp divides it
    "num_attention_heads": 4,
    "num_key_value_heads": 2,  # fewer than tp 4
    "head_dim": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
}
GPT2: dict[str, Any] = {
    "vocab_size": 37,
    "n_embd": 16,
    "n_inner": None,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 10,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    """A config.json of `family`; a change to None leaves the key out."""
    config = {"model_type": family, "architectures": [ARCHITECTURES[family]]}
    config |= {**(GPT2 if family == "gpt2" else CONFIG), **changes}
    return {key: value for key, value in config.items() if key not in changes or value is not None}


def shapes_of(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors that transformers saves for `config`, and their shapes."""
    return _gpt2_shapes(config) if config["model_type"] == "gpt2" else _llama_shapes(config)


def _llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    size = config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        shapes |= {
            f"{attention}.q_proj.weight": (queries, hidden),
            f"{attention}.k_proj.weight": (keys, hidden),
            f"{attention}.v_proj.weight": (keys, hidden),
            f"{attention}.o_proj.weight": (hidden, queries),
            f"{mlp}.gate_proj.weight": (inner, hidden),
            f"{mlp}.up_proj.weight": (inner, hidden),
            f"{mlp}.down_proj.weight": (hidden, inner),
            f"model.layers.{layer}.input_layernorm.weight": (hidden,),
            f"model.layers.{layer}.post_attention_layernorm.weight": (hidden,),
        }
        if config["model_type"] == "qwen2" or config.get("attention_bias"):
            shapes |= {
                f"{attention}.{name}_proj.bias": (rows,)
                for name, rows in zip("qkv", (queries, keys, keys), strict=True)
            }
        if config.get("attention_bias"):
            shapes[f"{attention}.o_proj.bias"] = (hidden,)
        if config["model_type"] == "qwen3":
            shapes |= {f"{attention}.q_norm.weight": (size,), f"{attention}.k_norm.weight": (size,)}
    shapes["model.norm.weight"] = (hidden,)
    return shapes if config["tie_word_embeddings"] else {**shapes, "lm_head.weight": (vocabulary, hidden)}


def _gpt2_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, vocabulary = config["n_embd"], config["vocab_size"]
    inner = config.get("n_inner") or 4 * hidden
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocabulary, hidden),
        "transformer.wpe.weight": (config["n_positions"], hidden),
    }
    for layer in range(config["n_layer"]):
        for name, shape in (
            ("attn.c_attn", (hidden, 3 * hidden)),
            ("attn.c_proj", (hidden, hidden)),
            ("mlp.c_fc", (hidden, inner)),
            ("mlp.c_proj", (inner, hidden)),
        ):
            shapes[f"transformer.h.{layer}.{name}.weight"] = shape
            shapes[f"transformer.h.{layer}.{name}.bias"] = shape[1:]
        for name in ("ln_1", "ln_2"):
            shapes |= {f"transformer.h.{layer}.{name}.{kind}": (hidden,) for kind in ("weight", "bias")}
    shapes |= {f"transformer.ln_f.{kind}": (hidden,) for kind in ("weight", "bias")}
    return shapes if config["tie_word_embeddings"] else {**shapes, "lm_head.weight": (vocabulary, hidden)}


def random_tensors(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, "np.ndarray[Any, Any]"]:
    """Random numbers of each shape, the same in every run."""
    chance = np.random.default_rng(5)
    return {name: chance.standard_normal(shape, np.float32).astype(NUMPY[dtype]) for name, shape in shapes.items()}


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, "np.ndarray[Any, Any]"], shards: int = 1
) -> Path:
    """Write a checkpoint in Hugging Face layout, its tensors dealt to `shards` files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return folder
    places = {name: f"model-{number % shards + 1:05}-of-{shards:05}.safetensors" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
