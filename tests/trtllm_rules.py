"""What each rank must hold, written down a second time: whole tensors in numpy, straight from the format's table.

Nothing of the converter is imported. The table is TensorRT-LLM's own: names, what is joined, what is chunked along
which dimension, which heads are repeated, which rows are padded.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]


def expected(
    config: Mapping[str, Any], tensors: Mapping[str, Array], tp: int, pp: int, dtype: str | None
) -> list[Tensors]:
    """The tensors of every rank, those of the first stage first; without `dtype` unrounded."""
    layers = config["n_layer"] if config["model_type"] == "gpt2" else config["num_hidden_layers"]
    rule = gpt2_rank if config["model_type"] == "gpt2" else llama_rank
    stages = np.array_split(np.arange(layers), pp)
    ranks = []
    for number, stage in enumerate(stages):
        for rank in range(tp):
            held = rule(config, tensors, [int(layer) for layer in stage], rank, tp)
            if number > 0:
                held = {name: array for name, array in held.items() if "embedding" not in name}
            if number < pp - 1:
                held = {name: array for name, array in held.items() if "ln_f" not in name and "lm_head" not in name}
            ranks.append({name: round16(array, dtype) if dtype else array for name, array in held.items()})
    return ranks


def llama_rank(
    config: Mapping[str, Any], tensors: Mapping[str, Array], stage: list[int], rank: int, tp: int
) -> Tensors:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    held: Tensors = {"transformer.vocab_embedding.weight": tensors["model.embed_tokens.weight"]}
    for at, layer in enumerate(stage):
        ours, theirs = f"transformer.layers.{at}", f"model.layers.{layer}"
        attention = f"{theirs}.self_attn"
        for kind in ("weight", "bias"):
            if f"{attention}.q_proj.{kind}" in tensors:
                query, key, value = (tensors[f"{attention}.{name}_proj.{kind}"] for name in "qkv")
                held[f"{ours}.attention.qkv.{kind}"] = np.concatenate(
                    [
                        head_chunk(query, heads, rank, tp),
                        head_chunk(key, kv_heads, rank, tp),
                        head_chunk(value, kv_heads, rank, tp),
                    ]
                )
        held[f"{ours}.attention.dense.weight"] = chunk(tensors[f"{attention}.o_proj.weight"], 1, rank, tp)
        if f"{attention}.o_proj.bias" in tensors:
            held[f"{ours}.attention.dense.bias"] = tensors[f"{attention}.o_proj.bias"]
        for name in "qk":
            if f"{attention}.{name}_norm.weight" in tensors:
                held[f"{ours}.attention.{name}_layernorm.weight"] = tensors[f"{attention}.{name}_norm.weight"]
        held[f"{ours}.mlp.fc.weight"] = chunk(tensors[f"{theirs}.mlp.gate_proj.weight"], 0, rank, tp)
        held[f"{ours}.mlp.gate.weight"] = chunk(tensors[f"{theirs}.mlp.up_proj.weight"], 0, rank, tp)
        held[f"{ours}.mlp.proj.weight"] = chunk(tensors[f"{theirs}.mlp.down_proj.weight"], 1, rank, tp)
        held[f"{ours}.input_layernorm.weight"] = tensors[f"{theirs}.input_layernorm.weight"]
        held[f"{ours}.post_layernorm.weight"] = tensors[f"{theirs}.post_attention_layernorm.weight"]
    held["transformer.ln_f.weight"] = tensors["model.norm.weight"]
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    held["lm_head.weight"] = padded_chunk(tensors[head], rank, tp)
    return held


def gpt2_rank(config: Mapping[str, Any], tensors: Mapping[str, Array], stage: list[int], rank: int, tp: int) -> Tensors:
    held: Tensors = {
        "transformer.vocab_embedding.weight": tensors["transformer.wte.weight"],
        "transformer.position_embedding.weight": tensors["transformer.wpe.weight"],
    }
    for at, layer in enumerate(stage):
        ours, theirs = f"transformer.layers.{at}", f"transformer.h.{layer}"
        for kind in ("weight", "bias"):
            # Conv1D stores [in, out]; of a vector the transpose is the vector.
            thirds = np.split(tensors[f"{theirs}.attn.c_attn.{kind}"].T, 3)
            joined = [head_chunk(third, config["n_head"], rank, tp) for third in thirds]
            held[f"{ours}.attention.qkv.{kind}"] = np.concatenate(joined)
            held[f"{ours}.mlp.fc.{kind}"] = chunk(tensors[f"{theirs}.mlp.c_fc.{kind}"].T, 0, rank, tp)
            held[f"{ours}.input_layernorm.{kind}"] = tensors[f"{theirs}.ln_1.{kind}"]
            held[f"{ours}.post_layernorm.{kind}"] = tensors[f"{theirs}.ln_2.{kind}"]
            held[f"transformer.ln_f.{kind}"] = tensors[f"transformer.ln_f.{kind}"]
        held[f"{ours}.attention.dense.weight"] = chunk(tensors[f"{theirs}.attn.c_proj.weight"].T, 1, rank, tp)
        held[f"{ours}.attention.dense.bias"] = tensors[f"{theirs}.attn.c_proj.bias"]
        held[f"{ours}.mlp.proj.weight"] = chunk(tensors[f"{theirs}.mlp.c_proj.weight"].T, 1, rank, tp)
        held[f"{ours}.mlp.proj.bias"] = tensors[f"{theirs}.mlp.c_proj.bias"]
    head = "transformer.wte.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    held["lm_head.weight"] = padded_chunk(tensors[head], rank, tp)
    return held


def chunk(array: Array, axis: int, rank: int, tp: int) -> Array:
    return np.split(array, tp, axis=axis)[rank]


def head_chunk(array: Array, heads: int, rank: int, tp: int) -> Array:
    """Chunk by heads; with fewer heads than ranks, each head is repeated until there is one a rank."""
    by_head = array.reshape(heads, -1, *array.shape[1:])
    if heads < tp:
        by_head = np.repeat(by_head, tp // heads, axis=0)
    return np.split(by_head, tp)[rank].reshape(-1, *array.shape[1:])


def padded_chunk(array: Array, rank: int, tp: int) -> Array:
    missing = -len(array) % tp
    return chunk(np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]), 0, rank, tp)


def round16(array: Array, dtype: str) -> Array:
    """Round to 16 bits, to the nearest, ties to even: bfloat16 by its bits, the upper half of a float32's."""
    numbers = np.ascontiguousarray(array.astype(np.float32))
    if dtype == "float16":
        return numbers.astype(np.float16)
    upper, lower = np.divmod(numbers.view(np.uint32), 1 << 16)
    up = (lower > 0x8000) | ((lower == 0x8000) & (upper % 2 == 1))
    return (upper + up).astype(np.uint16).view(ml_dtypes.bfloat16)
