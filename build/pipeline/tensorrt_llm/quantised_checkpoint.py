"""What a quantised TensorRT-LLM checkpoint must hold, and whether a folder does. It knows nothing of who wrote it.

Each linear layer of a block has its quantised weight and scales (`quantization/layers.py` of TensorRT-LLM 1.2.1, read
back from checkpoints); embeddings, norms, biases and lm_head stay float, the embedding's rows shared by the ranks of a
stage. All else is as in a plain checkpoint.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ensembles.errors import YardError
from pipeline.checkpoint import read_json
from pipeline.tensorrt_llm.family import Model
from pipeline.tensorrt_llm.layout import layout
from pipeline.tensorrt_llm.rank_config import rank_config
from pipeline.tensorrt_llm.split import Dtype, Split

Algorithm = Literal["fp8", "int8_sq", "int4_awq", "w4a8_awq"]
KvCache = Literal["fp8", "int8"]

# What TensorRT-LLM calls them in config.json (`QuantAlgo` in quantization/mode.py).
QUANT_ALGO: Mapping[Algorithm, str] = {
    "fp8": "FP8",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
}
AWQ: tuple[Algorithm, ...] = ("int4_awq", "w4a8_awq")
# How many weights of a row share one scale of AWQ.
GROUP = 128
LINEAR = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")
# The dtypes of safetensors' headers.
DTYPE: Mapping[Dtype, str] = {"float16": "F16", "bfloat16": "BF16"}
# Beside the factor for both, modelopt writes each one's own; TensorRT-LLM 1.2.1 reads only the first.
KV_FACTOR = "attention.kv_cache_scaling_factor"
KV_EXTRAS = ("attention.k_cache_scaling_factor", "attention.v_cache_scaling_factor")
EMBEDDING = "transformer.vocab_embedding.weight"
SHOWN = 5

# The dtype and shape of a tensor, as a safetensors header says them.
Kind = tuple[str, tuple[int, ...]]


class QuantisationError(YardError):
    """modelopt failed, or wrote a checkpoint that TensorRT-LLM would not read right."""


@dataclass(frozen=True)
class Quantisation:
    """How a checkpoint is quantised, for `tp` GPUs that share each layer and `pp` groups of them.

    `dtype` is of all that stays float; `kv_cache` None leaves the key-value cache in it.
    """

    algorithm: Algorithm
    kv_cache: KvCache | None = None
    tp: int = 1
    pp: int = 1
    dtype: Dtype = "float16"

    @property
    def split(self) -> Split:
        """The same split of a plain checkpoint."""
        return Split(self.tp, self.pp, self.dtype)


def quantization(settings: Quantisation) -> dict[str, Any]:
    """Return the table `quantization` of config.json, as far as it differs from that of a plain checkpoint."""
    awq = {"group_size": GROUP, "has_zero_point": False, "pre_quant_scale": True}
    return {
        "quant_algo": QUANT_ALGO[settings.algorithm],
        "kv_cache_quant_algo": settings.kv_cache and settings.kv_cache.upper(),
        "exclude_modules": ["lm_head"],
        **(awq if settings.algorithm in AWQ else {}),
    }


def expected_tensors(model: Model, settings: Quantisation) -> list[dict[str, Kind]]:
    """Return, for each rank, its tensors by name."""
    return [
        dict(kind for name, shape in targets.items() for kind in _tensors(name, shape, model, settings))
        for targets in layout(model, settings.split).targets
    ]


def _tensors(name: str, shape: tuple[int, ...], model: Model, settings: Quantisation) -> Iterator[tuple[str, Kind]]:
    """The tensors that stand for the plain checkpoint's `name` of `shape`."""
    layer, _, kind = name.rpartition(".")
    if kind == "weight" and layer.endswith(LINEAR):
        yield from _linear(layer, shape, settings)
        if settings.kv_cache and layer.endswith("attention.qkv"):
            yield f"{layer.removesuffix('attention.qkv')}{KV_FACTOR}", ("F32", (1,))
    elif name == EMBEDDING:
        yield name, (DTYPE[settings.dtype], (-(-model.vocab_size // settings.tp), model.hidden_size))
    else:
        yield name, (DTYPE[settings.dtype], shape)


def _linear(layer: str, shape: tuple[int, ...], settings: Quantisation) -> Iterator[tuple[str, Kind]]:
    """The weight of a linear layer, plainly `shape` [out, in], and its scales."""
    rows, columns = shape
    one: Kind = ("F32", (1,))
    if settings.algorithm == "fp8":
        yield f"{layer}.weight", ("F8_E4M3", shape)
        yield f"{layer}.weights_scaling_factor", one
    elif settings.algorithm == "int8_sq":
        yield f"{layer}.weight", ("I8", shape)
        yield f"{layer}.weights_scaling_factor", ("F32", (rows,))
    else:
        yield f"{layer}.weight", ("I8", (rows // 2, columns))  # two weights a byte
        yield f"{layer}.weights_scaling_factor", ("F32", (rows, columns // GROUP))
    if settings.algorithm == "w4a8_awq":
        yield f"{layer}.weights_scaling_factor_2", one
    if settings.algorithm != "int4_awq":
        yield f"{layer}.activation_scaling_factor", one
    if settings.algorithm != "fp8":
        yield f"{layer}.prequant_scaling_factor", (DTYPE[settings.dtype], (columns,))


def write_config(folder: Path, model: Model, settings: Quantisation) -> None:
    """Write config.json: that of the plain checkpoint, the embedding shared, with the table of the quantisation."""
    config = rank_config(model, settings.split)
    config |= {"use_parallel_embedding": True, "embedding_sharding_dim": 0}
    config["quantization"] |= quantization(settings)
    (folder / "config.json").write_text(json.dumps(config, indent=4) + "\n")


def require_contract(folder: Path, model: Model, settings: Quantisation) -> None:
    """Raise QuantisationError, with the first differences, unless `folder` holds what `settings` ask for.

    Of config.json the table `quantization` is compared; of the rank files names, dtypes and shapes of all tensors, and
    that every scale is a finite number above 0.
    """
    found = list(_differences(folder, model, settings))
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise QuantisationError(
            f"the quantised checkpoint in {folder} is not one that TensorRT-LLM reads: {'; '.join(found[:SHOWN])}{more}"
        )


def _differences(folder: Path, model: Model, settings: Quantisation) -> Iterator[str]:
    written = read_json(folder / "config.json").get("quantization") or {}
    for key, value in quantization(settings).items():
        if written.get(key) != value:
            yield f"config.json has quantization.{key} {written.get(key)!r}, not {value!r}"
    ranks = expected_tensors(model, settings)
    names = [f"rank{rank}.safetensors" for rank in range(len(ranks))]
    for extra in sorted({file.name for file in folder.glob("rank*")} - set(names)):
        yield f"{extra} is one rank too many"
    for name, expected in zip(names, ranks, strict=True):
        if not (folder / name).exists():
            yield f"{name} is missing"
            continue
        yield from (f"{name}: {words}" for words in _rank_differences(folder / name, expected, settings))


def _rank_differences(file: Path, expected: Mapping[str, Kind], settings: Quantisation) -> Iterator[str]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        names = tensors.keys()
        found = {name: _kind(tensors.get_slice(name)) for name in names}
        scales = [name for name in names if "scaling_factor" in name and found[name][0] == "F32"]
        factors = {name: tensors.get_tensor(name) for name in scales}
    for name, kind in expected.items():
        if name not in found:
            yield f"{name} is missing"
        elif found[name] != kind:
            yield f"{name} is {_shown(found[name])}, not {_shown(kind)}"
    extras = KV_EXTRAS if settings.kv_cache else ()
    for name in sorted(found.keys() - expected.keys()):
        if not name.endswith(extras):
            yield f"{name} is one tensor too many"
    for name, values in factors.items():
        # NaN fails the comparison too.
        if not ((values > 0) & (values < float("inf"))).all():
            yield f"{name} holds a scale that is not a finite number above 0"
        # One GEMM of fc and gate has one pair of scales.
        twin = name.replace(".mlp.fc.", ".mlp.gate.")
        if settings.algorithm == "fp8" and twin != name and twin in factors and (factors[twin] != values).any():
            yield f"{name} is not that of {twin}"


def _kind(tensor: Any) -> Kind:
    return tensor.get_dtype(), tuple(tensor.get_shape())


def _shown(kind: Kind) -> str:
    return f"{kind[0]} {list(kind[1])}"
