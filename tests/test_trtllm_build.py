"""The converter on what transformers itself saves, and on a checkpoint larger than the memory it may use."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import write_decoder
from trtllm_checkpoints import config_of, shapes_of

from pipeline.tensorrt_llm.convert import convert
from pipeline.tensorrt_llm.split import Split

pytestmark = pytest.mark.build

GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
        ("mistral", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {}),
        ("gpt2", GPT2),
    ],
)
def test_what_transformers_saves_is_converted_and_rounded_as_torch_rounds(
    tmp_path: Path, family: str, config: dict[str, Any]
) -> None:
    import torch
    from safetensors.torch import load_file

    source = write_decoder(tmp_path / "source", family, shard="100KB", **config)
    (tmp_path / "out").mkdir()
    convert(source, tmp_path / "out", Split(dtype="bfloat16"), lambda line: None)
    made = load_file(tmp_path / "out" / "rank0.safetensors")
    read = {name: tensor for file in source.glob("*.safetensors") for name, tensor in load_file(file).items()}
    theirs, ours = (
        ("transformer.h.1.mlp.c_proj", "mlp.proj") if family == "gpt2" else ("model.layers.1.mlp.gate_proj", "mlp.fc")
    )
    whole = read[f"{theirs}.weight"].T if family == "gpt2" else read[f"{theirs}.weight"]
    assert torch.equal(made[f"transformer.layers.1.{ours}.weight"], whole.to(torch.bfloat16))
    embedding = read["transformer.wte.weight" if family == "gpt2" else "model.embed_tokens.weight"]
    assert torch.equal(made["lm_head.weight"], read.get("lm_head.weight", embedding).to(torch.bfloat16))


SIZES = {
    "vocab_size": 8000,
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
ADDRESS_SPACE = 400 * 10**6
LIMITED = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from pipeline.tensorrt_llm.convert import convert
from pipeline.tensorrt_llm.split import Split
convert(Path(sys.argv[1]), Path(sys.argv[2]), Split(2, 2, "float16"), lambda line: None)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write_sparse(folder: Path, config: dict[str, Any]) -> int:
    """Write a bfloat16 checkpoint of zeros, a shard a layer, that takes next to no disk; return its bytes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes_of(config).items():
        parts = name.split(".")
        shards.setdefault(f"model-{parts[2] if 'layers' in parts else 'rest'}.safetensors", {})[name] = shape
    total = 0
    for file, shapes in shards.items():
        header, end = {}, 0
        for name, shape in shapes.items():
            begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)
        total += end
    places = {name: file for file, shapes in shards.items() for name in shapes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return total


def test_a_checkpoint_larger_than_the_memory_is_converted(tmp_path: Path) -> None:
    config = config_of("llama", **SIZES)
    total = write_sparse(tmp_path / "source", config)
    assert total > 1.5 * ADDRESS_SPACE
    (tmp_path / "out").mkdir()
    code = LIMITED.format(limit=ADDRESS_SPACE)
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "source", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    written = [file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")]
    for file in (tmp_path / "out").iterdir():
        file.unlink()  # the size of the checkpoint, and no sparse files
    assert len(written) == 4
    assert sum(written) > total
    largest = 2 * SIZES["hidden_size"] * SIZES["intermediate_size"]
    peak = int(done.stdout) * 1024
    assert peak < 2 * largest + 300e6, f"peak of {peak / 1e6:.0f} MB"
