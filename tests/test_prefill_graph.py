"""The prefill graph: its matrices and roundings by properties, its graphs on random checkpoints and the real engine."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from decoder import Decoder
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_decoder

from pipeline import onnx_decoder
from pipeline.assemble import assemble
from pipeline.greedy import GreedyDecoder
from pipeline.plan import Plan
from pipeline.prefill_graph import PREFILL, by_column, graphs_here
from pipeline.rotation import block_of, hadamard, in_blocks, orthogonal
from pipeline.store import Artefact

if TYPE_CHECKING:
    from numpy.typing import NDArray

few = settings(max_examples=15)
seeds = st.integers(0, 2**32 - 1)


@few
@given(st.integers(1, 96))
def test_the_turn_keeps_lengths_and_is_always_the_same(size: int) -> None:
    turn = orthogonal(size)
    assert np.allclose(turn @ turn.T, np.eye(size), atol=1e-12)
    assert np.array_equal(turn, orthogonal(size))


@few
@given(seeds, st.integers(1, 640))
def test_turned_inputs_meet_weights_turned_alike(seed: int, width: int) -> None:
    random = np.random.default_rng(seed)
    row, weights, block = random.standard_normal((1, width)), random.standard_normal((width, 3)), block_of(width)
    turned = (row.reshape(-1, block) @ hadamard(block)).reshape(1, width)
    assert np.allclose(turned @ in_blocks(weights, block), row @ weights)


def test_an_outlier_is_spread_over_its_block() -> None:
    row = np.zeros(64)
    row[17] = 8
    assert np.abs(row @ hadamard(64)).max() == pytest.approx(1)


@few
@given(seeds, st.sampled_from([0.0, 1e-30, 1.0, 1e30]))
def test_columns_are_rounded_each_by_its_own_step(seed: int, size: float) -> None:
    weights = np.random.default_rng(seed).standard_normal((32, 4)) * [1, 1e-3, 1e3, size]
    rounded, steps = by_column(weights)
    errors = np.linalg.norm(rounded * steps.astype(np.float64) - weights, axis=0)
    assert rounded.dtype == np.int8
    assert (errors[:3] < 0.02 * np.linalg.norm(weights, axis=0)[:3]).all()
    assert np.isfinite(errors).all()


@pytest.mark.build
def test_a_familys_prompts_and_answers_share_their_caches(tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", "qwen2")  # its queries, keys and values have biases
    onnx_decoder.save_facts(checkpoint, 512, tmp_path)
    onnx_decoder.build(checkpoint, "int8", tmp_path)
    text = np.random.default_rng(1).integers(5, 60, (1, 40))
    decoder = GreedyDecoder(tmp_path, 1, 64)
    plain = decoder.feed(text, 0).copy()
    fast = decoder.feed(text, 0, prompt=True).copy()
    assert (tmp_path / PREFILL).exists()
    assert (np.abs(fast - plain).max() > 0) == (PREFILL in graphs_here(tmp_path))
    assert (fast - plain).std() < 0.05 * plain.std()
    decoder.feed(text, 0, prompt=True)
    behind = decoder.feed(text[:, :1], 40).copy()
    decoder.feed(text, 0)
    assert (behind - decoder.feed(text[:, :1], 40)).std() < 0.05 * plain.std()


def cached(decoder: Decoder, text: "NDArray[np.int64]", cuts: list[int]) -> tuple[Any, Any]:
    """Prefill `text`, cut there; return its logits, and those of a token behind it, which reads what is cached."""
    decoder.lengths[:] = 0
    for part in np.split(text, cuts):
        logits = decoder.prefill(0, part).copy()
    return logits, decoder.decode(text[:1])[0].copy()


@pytest.mark.build
def test_a_prompt_cut_otherwise_leaves_the_same_bits(smollm2: tuple[Plan, Artefact]) -> None:
    """But for chunks of one token, which the kernels of decoding compute."""
    text = np.random.default_rng(2).integers(5, 40000, 300)
    decoder = Decoder(smollm2[1].folder, 1, 310, threads=2)
    logits, behind = cached(decoder, text, [])
    for cuts in ([64, 128, 192, 256], [2, 4, 131], [259], [298]):
        again, behind_again = cached(decoder, text, cuts)
        assert np.array_equal(again, logits)
        assert np.array_equal(behind_again, behind)


@pytest.mark.build
def test_prompts_go_through_the_graph_that_this_cpu_is_for(
    smollm2: tuple[Plan, Artefact], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, folder = np.random.default_rng(3).integers(5, 40000, 40), smollm2[1].folder
    plain = GreedyDecoder(folder, 1, 64)
    first, here = (plain.feed(text[None], 0, prompt=prompt)[0].copy() for prompt in (False, True))
    assert np.array_equal(Decoder(folder, 1, 64).prefill(0, text), here)
    monkeypatch.setattr("decoder.has_vnni", lambda: False)
    assert np.array_equal(Decoder(folder, 1, 64).prefill(0, text), first)


@pytest.mark.build
def test_the_repository_holds_all_graphs(tmp_path: Path, smollm2: tuple[Plan, Artefact]) -> None:
    assemble(tmp_path / "cpu", [smollm2], keep_others=False)
    graphs = {"model.onnx", "model.onnx.data", "prefill.onnx", "prefill.onnx.data", "verify.onnx"}
    held = {file.name for file in (tmp_path / "cpu" / "smollm2_decoder" / "1").iterdir()}
    assert held == graphs | {"decoder.json", "tokenizer.json"}
