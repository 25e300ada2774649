"""What a quantised TensorRT-LLM checkpoint must hold, on files made by hand from the contract's own table."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.tensorrt_llm.family import read_model
from pipeline.tensorrt_llm.quantised_checkpoint import (
    Quantisation,
    QuantisationError,
    expected_tensors,
    require_contract,
    write_config,
)

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
}
# Of LLAMA at tp 2, by hand: [out, in] of each linear layer of a rank.
LINEAR = {
    "attention.qkv": (256, 256),
    "attention.dense": (256, 128),
    "mlp.fc": (256, 256),
    "mlp.gate": (256, 256),
    "mlp.proj": (256, 256),
}
# The contract's table: what stands beside and for a weight of [o, i].
CONTRACT: dict[str, Callable[[int, int], dict[str, tuple[str, tuple[int, ...]]]]] = {
    "fp8": lambda o, i: {
        "weight": ("F8_E4M3", (o, i)),
        "weights_scaling_factor": ("F32", (1,)),
        "activation_scaling_factor": ("F32", (1,)),
    },
    "int8_sq": lambda o, i: {
        "weight": ("I8", (o, i)),
        "weights_scaling_factor": ("F32", (o,)),
        "activation_scaling_factor": ("F32", (1,)),
        "prequant_scaling_factor": ("F16", (i,)),
    },
    "int4_awq": lambda o, i: {
        "weight": ("I8", (o // 2, i)),
        "weights_scaling_factor": ("F32", (o, i // 128)),
        "prequant_scaling_factor": ("F16", (i,)),
    },
    "w4a8_awq": lambda o, i: {
        "weight": ("I8", (o // 2, i)),
        "weights_scaling_factor": ("F32", (o, i // 128)),
        "weights_scaling_factor_2": ("F32", (1,)),
        "activation_scaling_factor": ("F32", (1,)),
        "prequant_scaling_factor": ("F16", (i,)),
    },
}
QUANT_ALGO = {"fp8": "FP8", "int8_sq": "W8A8_SQ_PER_CHANNEL", "int4_awq": "W4A16_AWQ", "w4a8_awq": "W4A8_AWQ"}
BYTES = {"F32": 4, "F16": 2, "I8": 1, "F8_E4M3": 1}
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def by_hand(algorithm: str, kv_cache: bool) -> Tensors:
    """The tensors of each of the two ranks of LLAMA at tp 2."""
    layer = "transformer.layers.0"
    tensors: Tensors = {
        "transformer.vocab_embedding.weight": ("F16", (64, 256)),
        f"{layer}.input_layernorm.weight": ("F16", (256,)),
        f"{layer}.post_layernorm.weight": ("F16", (256,)),
        "transformer.ln_f.weight": ("F16", (256,)),
        "lm_head.weight": ("F16", (64, 256)),
    }
    for name, (rows, columns) in LINEAR.items():
        tensors |= {f"{layer}.{name}.{part}": kind for part, kind in CONTRACT[algorithm](rows, columns).items()}
    if kv_cache:
        tensors[f"{layer}.attention.kv_cache_scaling_factor"] = ("F32", (1,))
    return tensors


def write_rank(file: Path, tensors: Tensors, scale: float = 0.5, **scales: float) -> None:
    """A safetensors file of `tensors`: zeros, but for the scales, all `scale` or what `scales` says by name's end."""
    header, body = {}, b""
    for name, (dtype, shape) in tensors.items():
        count = math.prod(shape)
        value = next((value for end, value in scales.items() if name.endswith(end.replace("__", "."))), scale)
        data = struct.pack(f"<{count}f", *[value] * count) if dtype == "F32" else bytes(count * BYTES[dtype])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def write_checkpoint(folder: Path, settings: Quantisation) -> Tensors:
    """A checkpoint of LLAMA at tp 2 as it should be."""
    tensors = by_hand(settings.algorithm, settings.kv_cache is not None)
    for rank in range(2):
        write_rank(folder / f"rank{rank}.safetensors", tensors)
    write_config(folder, read_model(folder, LLAMA), settings)
    return tensors


@pytest.mark.parametrize("kv_cache", [None, "fp8", "int8"])
@pytest.mark.parametrize("algorithm", CONTRACT)
def test_what_the_contract_says_is_expected_of_every_rank_and_passes(
    tmp_path: Path, algorithm: Any, kv_cache: Any
) -> None:
    settings = Quantisation(algorithm, kv_cache, tp=2)
    tensors = write_checkpoint(tmp_path, settings)
    assert expected_tensors(read_model("it", LLAMA), settings) == [tensors, tensors]
    require_contract(tmp_path, read_model("it", LLAMA), settings)


def test_the_last_stage_alone_has_the_head_and_the_first_the_embedding() -> None:
    model = read_model("it", LLAMA | {"num_hidden_layers": 2})
    first, last = expected_tensors(model, Quantisation("fp8", pp=2, dtype="bfloat16"))
    ends = {"transformer.vocab_embedding.weight", "transformer.ln_f.weight", "lm_head.weight"}
    assert ends & first.keys() == {"transformer.vocab_embedding.weight"}
    assert ends & last.keys() == {"transformer.ln_f.weight", "lm_head.weight"}
    assert first.keys() - ends == last.keys() - ends
    assert last["lm_head.weight"] == ("BF16", (128, 256))


def test_qwen_keeps_its_biases_and_norms_in_floats() -> None:
    for family, own, kind in (
        ("qwen2", "attention.qkv.bias", ("F16", (512,))),
        ("qwen3", "attention.q_layernorm.weight", ("F16", (32,))),
    ):
        model = read_model("it", {**LLAMA, "model_type": family, "architectures": None})
        [tensors] = expected_tensors(model, Quantisation("w4a8_awq"))
        assert tensors[f"transformer.layers.0.{own}"] == kind


@pytest.mark.parametrize("algorithm", CONTRACT)
def test_config_json_is_the_plain_one_with_a_shared_embedding_and_the_table(tmp_path: Path, algorithm: Any) -> None:
    write_config(tmp_path, read_model("it", LLAMA), Quantisation(algorithm, "fp8", tp=2))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rotary_base"] == 500000.0  # modelopt's own has none where transformers 5 nests it
    assert (config["use_parallel_embedding"], config["embedding_sharding_dim"]) == (True, 0)
    assert config["mapping"]["tp_size"] == 2
    table = config["quantization"]
    assert (table["quant_algo"], table["kv_cache_quant_algo"]) == (QUANT_ALGO[algorithm], "FP8")
    assert table["exclude_modules"] == ["lm_head"]
    assert table["pre_quant_scale"] is algorithm.endswith("awq")
    assert table["has_zero_point"] is False
    assert table["group_size"] == 128


FC = "transformer.layers.0.mlp.fc"
KV = "transformer.layers.0.attention.kv_cache_scaling_factor"


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: kind for key, kind in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("algorithm", "change", "words"),
    [
        ("fp8", without(f"{FC}.weight"), r"rank1.safetensors: .*mlp.fc.weight is missing"),
        ("int8_sq", without(f"{FC}.prequant_scaling_factor"), "mlp.fc.prequant_scaling_factor is missing"),
        ("int4_awq", without(KV), "attention.kv_cache_scaling_factor is missing"),
        (
            "fp8",
            lambda tensors: tensors | {f"{FC}.weight": ("I8", (256, 256))},
            r"mlp.fc.weight is I8 \[256, 256\], not F8_E4M3 \[256, 256\]",
        ),
        (
            "int4_awq",
            lambda tensors: tensors | {f"{FC}.weight": ("I8", (256, 256))},
            r"mlp.fc.weight is I8 \[256, 256\], not I8 \[128, 256\]",
        ),
        (
            "w4a8_awq",
            lambda tensors: tensors | {f"{FC}.bias": ("F16", (256,))},
            "mlp.fc.bias is one tensor too many",
        ),
    ],
)
def test_each_difference_of_a_rank_is_named(
    tmp_path: Path, algorithm: Any, change: Callable[[Tensors], Tensors], words: str
) -> None:
    settings = Quantisation(algorithm, "int8", tp=2)
    write_rank(tmp_path / "rank1.safetensors", change(write_checkpoint(tmp_path, settings)))
    with pytest.raises(QuantisationError, match=words):
        require_contract(tmp_path, read_model("it", LLAMA), settings)


def test_modelopts_two_factors_beside_that_of_the_whole_cache_are_no_difference(tmp_path: Path) -> None:
    own = {f"transformer.layers.0.attention.{part}_cache_scaling_factor": ("F32", (1,)) for part in ("k", "v")}
    for kv_cache, differs in (("fp8", False), (None, True)):
        settings = Quantisation("fp8", kv_cache, tp=2)
        tensors = write_checkpoint(tmp_path, settings)
        write_rank(tmp_path / "rank0.safetensors", tensors | own)
        if differs:
            with pytest.raises(QuantisationError, match=r"rank0.*k_cache_scaling_factor is one tensor too many"):
                require_contract(tmp_path, read_model("it", LLAMA), settings)
        else:
            require_contract(tmp_path, read_model("it", LLAMA), settings)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_scale_that_is_no_positive_number_is_named(tmp_path: Path, value: float) -> None:
    settings = Quantisation("int8_sq", tp=2)
    tensors = write_checkpoint(tmp_path, settings)
    write_rank(tmp_path / "rank0.safetensors", tensors, dense__weights_scaling_factor=value)
    with pytest.raises(QuantisationError, match=r"rank0.*attention.dense.weights_scaling_factor holds a scale"):
        require_contract(tmp_path, read_model("it", LLAMA), settings)


@pytest.mark.parametrize("factor", ["weights_scaling_factor", "activation_scaling_factor"])
def test_fc_and_gate_share_their_scales_in_fp8(tmp_path: Path, factor: str) -> None:
    settings = Quantisation("fp8", tp=2)
    tensors = write_checkpoint(tmp_path, settings)
    write_rank(tmp_path / "rank0.safetensors", tensors, **{f"fc__{factor}": 0.25})
    with pytest.raises(QuantisationError, match=rf"mlp.fc.{factor} is not that of .*mlp.gate"):
        require_contract(tmp_path, read_model("it", LLAMA), settings)


def test_a_missing_rank_and_one_too_many_and_another_table_are_named(tmp_path: Path) -> None:
    settings = Quantisation("int4_awq", "int8", tp=2)
    write_checkpoint(tmp_path, settings)
    (tmp_path / "rank1.safetensors").rename(tmp_path / "rank2.safetensors")
    write_config(tmp_path, read_model("it", LLAMA), Quantisation("int4_awq", "fp8", tp=2))
    with pytest.raises(QuantisationError) as refusal:
        require_contract(tmp_path, read_model("it", LLAMA), settings)
    assert "rank1.safetensors is missing" in str(refusal.value)
    assert "rank2.safetensors is one rank too many" in str(refusal.value)
    assert "quantization.kv_cache_quant_algo 'FP8', not 'INT8'" in str(refusal.value)
