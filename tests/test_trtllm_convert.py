"""Checkpoint -> TensorRT-LLM checkpoint, tensor by tensor, against rules written down apart from the converter."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from safetensors.numpy import save
from trtllm_checkpoints import ARCHITECTURES, config_of, random_tensors, shapes_of, write_checkpoint
from trtllm_rules import expected, round16

import pipeline.tensorrt_llm.convert as converter
from pipeline.checkpoint import CheckpointError
from pipeline.tensorrt_llm.convert import convert
from pipeline.tensorrt_llm.split import Dtype, Split

Tensors = dict[str, "np.ndarray[Any, Any]"]


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def converted(source: Path, out: Path, split: Split) -> list[bytes]:
    """The bytes of each rank's file, and nothing else in the folder but config.json."""
    out.mkdir()
    convert(source, out, split, quiet)
    names = [f"rank{rank}.safetensors" for rank in range(split.tp * split.pp)]
    assert {file.name for file in out.iterdir()} == {*names, "config.json"}
    return [(out / name).read_bytes() for name in names]


def held(file: bytes) -> dict[str, tuple[list[int], bytes]]:
    """The tensors of a safetensors file as shape and bytes."""
    end = 8 + struct.unpack("<Q", file[:8])[0]
    header = json.loads(file[8:end])
    return {name: (entry["shape"], file[end:][slice(*entry["data_offsets"])]) for name, entry in header.items()}


def require_equal(files: list[bytes], ranks: list[Tensors]) -> None:
    assert len(files) == len(ranks)
    for file, tensors in zip(files, ranks, strict=True):
        found = held(file)
        assert found.keys() == tensors.keys()
        for name, array in tensors.items():
            assert found[name] == (list(array.shape), np.ascontiguousarray(array).tobytes()), name
        # And byte for byte what safetensors itself would have written.
        assert file == save({name: np.ascontiguousarray(array) for name, array in tensors.items()})


@pytest.mark.parametrize("pp", [1, 2])
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_tensor_of_every_rank(tmp_path: Path, family: str, tied: bool, tp: int, pp: int) -> None:
    config = config_of(family, tie_word_embeddings=tied)
    tensors = random_tensors(shapes_of(config))
    source = write_checkpoint(tmp_path / "source", config, tensors, shards=1 if tied else 3)
    files = converted(source, tmp_path / "out", Split(tp, pp, "float16"))
    require_equal(files, expected(config, tensors, tp, pp, "float16"))


@pytest.mark.parametrize(
    ("family", "changes", "tp", "pp"),
    [
        ("llama", {"num_key_value_heads": 1}, 4, 1),
        ("llama", {"num_key_value_heads": 4}, 4, 3),
        ("llama", {"attention_bias": True}, 2, 2),
        ("qwen2", {"num_key_value_heads": 1}, 2, 3),
        ("qwen3", {"head_dim": 6, "num_attention_heads": 8, "num_key_value_heads": 2}, 8, 2),
        ("mistral", {"vocab_size": 3}, 4, 1),  # a rank whose whole head is padding
        ("gpt2", {"n_inner": 20}, 4, 2),
    ],
)
def test_sizes_that_are_seldom(tmp_path: Path, family: str, changes: dict[str, Any], tp: int, pp: int) -> None:
    config = config_of(family, **changes)
    tensors = random_tensors(shapes_of(config))
    source = write_checkpoint(tmp_path / "source", config, tensors)
    files = converted(source, tmp_path / "out", Split(tp, pp, "float16"))
    require_equal(files, expected(config, tensors, tp, pp, "float16"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("stored", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_dtype_becomes_either(tmp_path: Path, family: str, stored: str, dtype: Dtype) -> None:
    config = config_of(family)
    tensors = random_tensors(shapes_of(config), stored)
    source = write_checkpoint(tmp_path / "source", config, tensors)
    require_equal(converted(source, tmp_path / "out", Split(2, 1, dtype)), expected(config, tensors, 2, 1, dtype))


def test_blocks_of_a_few_rows_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("qwen2")
    tensors = random_tensors(shapes_of(config))
    source = write_checkpoint(tmp_path / "source", config, tensors)
    for block in (1, 200, 300):  # less than a row, three rows, vectors in more than one block
        monkeypatch.setattr(converter, "BLOCK", block)
        files = converted(source, tmp_path / f"out{block}", Split(4, 2, "bfloat16"))
        require_equal(files, expected(config, tensors, 4, 2, "bfloat16"))


def rounded(block: "np.ndarray[Any, Any]", dtype: Any) -> tuple["np.ndarray[Any, Any]", int]:
    numbers = np.empty(block.shape, dtype)
    return numbers, converter._round(block, numbers)


@given(st.lists(st.floats(width=32, min_value=-65000, max_value=65000), min_size=1, max_size=50))
def test_numbers_are_rounded_to_the_nearest_ties_to_even(numbers: list[float]) -> None:
    block = np.array(numbers, np.float32)
    halves, lost = rounded(block, np.float16)
    assert halves.tobytes() == b"".join(struct.pack("<e", number) for number in block.tolist())
    brains, lost_brains = rounded(block, bfloat16)
    assert brains.tobytes() == round16(block, "bfloat16").tobytes()
    assert lost == lost_brains == 0


@pytest.mark.parametrize(
    ("numbers", "dtype", "made", "lost"),
    [
        ([1.0, 65519.0], np.float16, [1, 65504], 0),
        ([1.0, 65520.0], np.float16, [1, np.inf], 1),
        ([1.0, -65520.0], np.float16, [1, -np.inf], 1),
        ([1e6, -1e6, np.inf, -np.inf], np.float16, [np.inf, -np.inf, np.inf, -np.inf], 2),
        ([np.inf, -np.inf], np.float16, [np.inf, -np.inf], 0),  # so it was in the checkpoint
        ([np.finfo(np.float32).max, 1e38], bfloat16, [np.inf, float(bfloat16(1e38))], 1),
    ],
)
def test_what_becomes_infinite_is_counted(numbers: list[float], dtype: Any, made: list[float], lost: int) -> None:
    found, count = rounded(np.array(numbers, np.float32), dtype)
    assert (found.astype(np.float64).tolist(), count) == (made, lost)


def test_names_without_the_models_prefix_and_buffers(tmp_path: Path) -> None:
    config = config_of("gpt2", tie_word_embeddings=None)  # GPT-2's own default is tied
    tensors = random_tensors(shapes_of({**config, "tie_word_embeddings": True}))
    short = {name.removeprefix("transformer."): array for name, array in tensors.items()}
    short |= {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8), "h.0.attn.masked_bias": np.zeros(1, np.float32)}
    source = write_checkpoint(tmp_path / "source", config, short)
    files = converted(source, tmp_path / "out", Split(2, 1, "float16"))
    require_equal(files, expected({**config, "tie_word_embeddings": True}, tensors, 2, 1, "float16"))


def test_a_head_that_is_stored_although_it_is_tied_is_left_out(tmp_path: Path) -> None:
    config = config_of("llama", tie_word_embeddings=True)
    tensors = random_tensors(shapes_of({**config, "tie_word_embeddings": False}))
    source = write_checkpoint(tmp_path / "source", config, tensors)
    files = converted(source, tmp_path / "out", Split())
    require_equal(files, expected(config, tensors, 1, 1, "float16"))


def test_progress_is_told_in_hundredths_at_most(tmp_path: Path) -> None:
    config = config_of("llama", num_hidden_layers=30)
    source = write_checkpoint(tmp_path / "source", config, random_tensors(shapes_of(config)))
    (tmp_path / "out").mkdir()
    lines: list[str] = []
    facts = convert(source, tmp_path / "out", Split(), lines.append)
    assert facts["tensors"] == 30 * 9 + 3
    assert lines[0] == "tensor 0 of 273, 0.0 of 0.0 GB"
    assert 50 < len(set(lines)) <= 100


Broken = Callable[[Path, dict[str, Any], Tensors], None]


def without(name: str) -> Broken:
    return lambda folder, config, tensors: write(folder, config, {k: v for k, v in tensors.items() if k != name})


def with_tensor(name: str, array: "np.ndarray[Any, Any]") -> Broken:
    return lambda folder, config, tensors: write(folder, config, {**tensors, name: array})


def write(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    write_checkpoint(folder, config, tensors)


def bitten(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    file = write_checkpoint(folder, config, tensors) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def not_safetensors(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    (write_checkpoint(folder, config, tensors) / "model.safetensors").write_bytes(b"PK\3\4 a pickle")


def no_weights(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    (write_checkpoint(folder, config, tensors) / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_shard(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    (write_checkpoint(folder, config, tensors, shards=2) / "model-00002-of-00002.safetensors").unlink()


def no_tensor_in_shard(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    index = write_checkpoint(folder, config, tensors, shards=2) / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("00001-of", "00002-of"))


def no_index(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    (write_checkpoint(folder, config, tensors, shards=2) / "model.safetensors.index.json").write_text("[]")


def header_says(**entry: Any) -> Broken:
    """The header of the file says something else of its one tensor than the 64 bytes that follow."""

    def breaks(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
        header = {"model.norm.weight": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64], **entry}}
        text = json.dumps(header).encode()
        write_checkpoint(folder, config, tensors)
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))

    return breaks


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (no_weights, "neither model.safetensors nor model.safetensors.index.json; only safetensors are read"),
        (not_safetensors, r"model.safetensors are damaged: 13 bytes hold no safetensors header"),
        (bitten, r"model.safetensors are cut off: tensor '.*' ends at byte \d+ of \d+"),
        (no_shard, "model-00002-of-00002.safetensors are missing"),
        (no_index, "model.safetensors.index.json has no weight_map"),
        (header_says(shape=[15]), r"damaged: tensor 'model.norm.weight' \[15\] of F32 has 64 bytes"),
        (header_says(data_offsets=[-64, 0]), "damaged: tensor 'model.norm.weight'"),
        (header_says(data_offsets=[0, 65]), "cut off: tensor 'model.norm.weight' ends at byte"),
        (header_says(data_offsets=None), "damaged: no place is given for tensor 'model.norm.weight'"),
        (no_tensor_in_shard, "lack the tensor '.*' that model.safetensors.index.json says is there"),
        (
            without("model.layers.1.mlp.up_proj.weight"),
            "no tensor 'model.layers.1.mlp.up_proj.weight', which its config.json promises; did you mean 'model.layers",
        ),
        (without("lm_head.weight"), "no tensor 'lm_head.weight'"),
        (
            with_tensor("model.norm.weight", np.ones(15, np.float32)),
            r"tensor 'model.norm.weight' has shape \[15\], its config.json promises \[16\]",
        ),
        (
            with_tensor("model.norm.weight", np.ones(16, np.float64)),
            "tensor 'model.norm.weight' is of F64; F32, F16, BF16 are converted",
        ),
        (
            with_tensor("model.layers.0.self_attn.o_proj.bias", np.ones(16, np.float32)),
            "has 1 tensors that its model_type does not: 'model.layers.0.self_attn.o_proj.bias'; TensorRT-LLM would",
        ),
        (
            with_tensor("model.embed_tokens.weight", np.full((37, 16), 7e4, np.float32)),
            "592 numbers of tensor 'model.embed_tokens.weight' are too large for float16 .*; convert to bfloat16",
        ),
    ],
)
def test_weights_that_cannot_be_converted_are_named(tmp_path: Path, breaks: Broken, words: str) -> None:
    config = config_of("llama")
    breaks(tmp_path / "source", config, random_tensors(shapes_of(config)))
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=words):
        convert(tmp_path / "source", tmp_path / "out", Split(dtype="float16"), quiet)
