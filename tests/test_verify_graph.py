"""The verify graph: to the last bit what decoding gives, on random checkpoints and the real engine."""

from pathlib import Path

import numpy as np
import pytest
from decoder import Decoder
from tiny import write_decoder

from pipeline import onnx_decoder
from pipeline.plan import Plan
from pipeline.store import Artefact
from pipeline.verify_graph import TOKENS, VERIFY, write_verify_graph


def written(tmp_path: Path, family: str, precision: str) -> Path:
    checkpoint = write_decoder(tmp_path / "checkpoint", family)
    onnx_decoder.save_facts(checkpoint, 512, tmp_path)
    onnx_decoder.build(checkpoint, precision, tmp_path)
    return tmp_path


def assert_same(decoder: Decoder, prompt: list[int], tokens: list[int]) -> None:
    """Row 0 decodes `tokens` behind `prompt` one by one, row 1 a few at once; then both decode one more."""
    decoder.copy(0, 0, 0)
    decoder.copy(1, 1, 0)
    for row in (0, 1):
        decoder.prefill(row, np.array(prompt))
    alone = [decoder.decode(np.array([token]))[0].copy() for token in tokens]
    at_once = [decoder.verify(1, np.array(tokens[at : at + TOKENS])).copy() for at in range(0, len(tokens), TOKENS)]
    assert np.array_equal(np.concatenate(at_once), alone)
    both = decoder.decode(np.array([tokens[0]] * 2))
    assert np.array_equal(both[0], both[1])


@pytest.mark.build
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_family_verifies_exactly(tmp_path: Path, family: str) -> None:
    folder = written(tmp_path, family, "int8")
    assert write_verify_graph(folder)
    decoder = Decoder(folder, 2, 64, threads=2)
    assert decoder.verified == TOKENS
    assert decoder.lengths.tolist() == [0, 0]
    random = np.random.default_rng(1)
    for length in (1, 2, 33):
        assert_same(decoder, random.integers(5, 60, length).tolist(), random.integers(5, 60, 2 * TOKENS).tolist())


@pytest.mark.build
def test_the_real_engine_verifies_exactly(smollm2: tuple[Plan, Artefact]) -> None:
    decoder = Decoder(smollm2[1].folder, 2, 1024, threads=2)
    assert decoder.verified == TOKENS
    random = np.random.default_rng(2)
    for length in (1, 64, 129, 1000):
        prompt, tokens = random.integers(5, 40000, length), random.integers(5, 40000, 4 * TOKENS)
        assert_same(decoder, prompt.tolist(), tokens.tolist())


@pytest.mark.build
def test_what_was_wrong_leaves_nothing(smollm2: tuple[Plan, Artefact]) -> None:
    decoder = Decoder(smollm2[1].folder, 2, 128, threads=2)
    prompt, right = np.arange(5, 50), np.array([100, 200, 300, 400])
    for row in (0, 1):
        decoder.prefill(row, prompt)
    decoder.verify(1, np.array([100, 7, 8, 9]))
    decoder.copy(1, 1, len(prompt) + 1)
    decoder.decode(right[:1])
    decoder.copy(1, 1, len(prompt) + 1)
    found = decoder.decode(np.array([200, 200]))
    assert np.array_equal(found[0], found[1])


@pytest.mark.build
def test_products_that_depend_on_what_is_beside_them_are_not_verified(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama", "fp32")
    assert not write_verify_graph(folder)
    assert not (folder / VERIFY).exists()
    assert Decoder(folder, 2, 64).verified == 0
