"""The integer graphs: their roundings by properties, themselves on random checkpoints and the real engine."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from decoder import Decoder, has_vnni
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_decoder

from pipeline import onnx_decoder
from pipeline.assemble import assemble
from pipeline.greedy import GreedyDecoder
from pipeline.integer_graphs import COLUMNS, DECODE, by_block, by_column, graphs_here
from pipeline.plan import Plan
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


def test_a_column_is_rounded_alike_wherever_it_stands() -> None:
    weights = np.random.default_rng(0).standard_normal((4, COLUMNS + 3))
    rounded, steps = by_column(weights)
    again, steps_again = by_column(weights[:, 7:])
    assert np.array_equal(rounded[:, 7:], again)
    assert np.array_equal(steps[7:], steps_again)


@few
@given(seeds, st.integers(1, 200))
def test_blocks_are_rounded_each_by_its_own_step(seed: int, width: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((width, 3)) * [1, 1e-3, 1e3]
    rounded, steps = by_block(weights, 64)
    assert (rounded.dtype, rounded.shape, steps.shape) == (np.uint8, (3, -(-width // 64), 64), (3, -(-width // 64)))
    back = ((rounded.astype(np.float64) - 128) * steps[:, :, None]).reshape(3, -1)
    assert (np.abs(back[:, :width].T - weights) <= 0.501 * np.repeat(steps, 64, axis=1)[:, :width].T).all()
    assert (back[:, width:] == 0).all()


@pytest.mark.build
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])  # biases of queries, keys and values; norms of queries and keys
def test_a_familys_graphs_say_what_the_builders_says(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", family)
    onnx_decoder.save_facts(checkpoint, 512, tmp_path)
    onnx_decoder.build(checkpoint, "int8", tmp_path)
    assert (tmp_path / DECODE).exists()
    text, found = np.random.default_rng(1).integers(5, 60, 40), []
    for vnni in (has_vnni(), False):
        monkeypatch.setattr("decoder.has_vnni", lambda vnni=vnni: vnni)
        decoder = Decoder(tmp_path, 2, 64)
        prompts = [decoder.prefill(row, text).copy() for row in (0, 1)]
        found.append(np.array([*prompts, *decoder.decode(np.array([7, 9]))]))
    fast, plain = found
    assert (np.abs(fast - plain).max(axis=1) > 0).all() == (DECODE in graphs_here(tmp_path))
    # Rows of so few numbers are far from the normal distribution that fixed steps are made for.
    assert (fast - plain).std() < 0.1 * plain.std()


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
def test_a_row_decodes_to_the_same_bits_whoever_is_beside_it(smollm2: tuple[Plan, Artefact]) -> None:
    random = np.random.default_rng(4)
    prompts, tokens = random.integers(5, 40000, (16, 40)), random.integers(5, 40000, (4, 16))
    decoder = Decoder(smollm2[1].folder, 16, 64, threads=2)

    def decoded(rows: list[int]) -> "NDArray[np.float32]":
        for place, row in enumerate(rows):
            decoder.copy(place, place, 0)
            decoder.prefill(place, prompts[row, : 3 + 2 * row])
        return np.array([decoder.decode(step[rows]) for step in tokens])

    together = decoded(list(range(16)))
    for rows in ([5], [15, 0], [1, 2, 3, 4], list(range(9))):
        assert np.array_equal(decoded(rows), together[:, rows])


@pytest.mark.build
def test_tokens_go_through_the_graphs_that_this_cpu_is_for(
    smollm2: tuple[Plan, Artefact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one without VNNI all go through the builder's graph, whose bits a prompt and its answer then have."""
    text, folder = np.random.default_rng(3).integers(5, 40000, 40), smollm2[1].folder

    def logits(decoder: Any) -> list[Any]:
        return [decoder.prefill(0, text).copy(), decoder.decode(text[:1])[0].copy()]

    plain = GreedyDecoder(folder, 1, 64)
    here = [plain.feed(text[None], 0, prompt=True)[0].copy(), plain.feed(text[None, :1], 40)[0].copy()]
    assert np.array_equal(logits(Decoder(folder, 1, 64)), here)
    monkeypatch.setattr("decoder.has_vnni", lambda: False)
    monkeypatch.setattr("pipeline.greedy.graphs_here", lambda folder: ["model.onnx"])
    plain = GreedyDecoder(folder, 1, 64)
    first = [plain.feed(text[None], 0)[0].copy(), plain.feed(text[None, :1], 40)[0].copy()]
    without = Decoder(folder, 1, 64)
    assert np.array_equal(logits(without), first)
    assert np.array_equal(first, here) != has_vnni()
    assert without.verified == 0  # it is made of the integer graph, whose bits are others


@pytest.mark.build
def test_the_repository_holds_all_graphs(tmp_path: Path, smollm2: tuple[Plan, Artefact]) -> None:
    assemble(tmp_path / "cpu", [smollm2], keep_others=False)
    graphs = {"verify.onnx", *(f"{each}.onnx{end}" for each in ("model", "decode", "prefill") for end in ("", ".data"))}
    held = {file.name for file in (tmp_path / "cpu" / "smollm2_decoder" / "1").iterdir()}
    assert held == graphs | {"decoder.json", "tokenizer.json"}
