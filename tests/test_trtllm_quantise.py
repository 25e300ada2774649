"""Which checkpoints are quantised, with which of modelopt's configurations, and on which text."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from trtllm_checkpoints import config_of

from pipeline.checkpoint import CheckpointError
from pipeline.tensorrt_llm import calibration, quantise
from pipeline.tensorrt_llm.quantise import require_quantisable
from pipeline.tensorrt_llm.quantised_checkpoint import Quantisation

SIZES = {"vocab_size": 128, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}


def write_source(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A Hugging Face folder without a tensor in its weights: enough for all that is refused before loading."""
    config = config_of(family, **({} if family == "gpt2" else SIZES | changes))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file({}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        (Quantisation("fp8"), {"family": "gpt2"}, r"is a GPT-2, .* choose w8a16 or w4a16"),
        (Quantisation("fp8"), {"model_type": "lama"}, "did you mean 'llama'"),
        (Quantisation("fp8", tp=3), {}, "8 attention heads, which tp 3 does not divide"),
        (Quantisation("int8_sq", pp=2), {"num_hidden_layers": 3}, "3 layers; .* pp 2 does not divide them"),
        (Quantisation("int8_sq", tp=8), {}, r"4 key-value heads for tp 8; .* choose fp8, or a tp of at most 4"),
        (
            Quantisation("int4_awq"),
            {"intermediate_size": 576},
            r"intermediate_size 576; .* a multiple of 128: choose fp8 or int8_sq$",
        ),
        (
            Quantisation("w4a8_awq", tp=4),
            {},
            r"hidden_size 256; .* tp 4 .* of 512: choose fp8 or int8_sq, or a smaller tp",
        ),
        (Quantisation("fp8", tp=8), {"hidden_size": 252}, r"hidden_size 252; .* of 8: choose a smaller tp$"),
        (Quantisation("int4_awq"), {"head_dim": 48, "num_attention_heads": 6, "num_key_value_heads": 6}, "size 288;"),
        (Quantisation("int4_awq"), {"vocab_size": 102}, "a vocabulary of 102; .* choose fp8 or int8_sq"),
        (Quantisation("fp8"), {"quantization_config": {"quant_method": "awq"}}, "quantised already"),
    ],
)
def test_what_is_not_carried_is_refused_before_anything_is_loaded(
    tmp_path: Path, settings: Quantisation, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        require_quantisable(write_source(tmp_path, **changes), settings)


def test_only_awq_asks_for_groups_and_a_round_vocabulary(tmp_path: Path) -> None:
    source = write_source(tmp_path, intermediate_size=576, vocab_size=102)
    for algorithm in ("fp8", "int8_sq"):
        assert require_quantisable(source, Quantisation(algorithm, tp=2)).vocab_size == 102


def test_weights_that_are_cut_off_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    source = write_source(tmp_path)
    (source / "model.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(CheckpointError, match="damaged"):
        require_quantisable(source, Quantisation("fp8"))


def test_a_missing_modelopt_is_a_sentence_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CheckpointError, match=r"nvidia-modelopt, which is not installed; run .*--extra quantise"):
        quantise.quantise(write_source(tmp_path), out, Quantisation("fp8"), lambda line: None)
    assert list(out.iterdir()) == []


def test_the_cache_is_quantised_beside_the_weights() -> None:
    config = {"quant_cfg": {"*weight_quantizer": {"num_bits": 4}, "default": {"enable": False}}, "algorithm": "max"}
    assert calibration.quantiser_config(config, None) == config
    for kv_cache, bits in (("fp8", (4, 3)), ("int8", 8)):
        both = calibration.quantiser_config(config, kv_cache)
        added = {"*[kv]_bmm_quantizer": {"num_bits": bits, "axis": None, "enable": True}}
        assert both == {"quant_cfg": config["quant_cfg"] | added, "algorithm": "max"}
    assert set(config["quant_cfg"]) == {"*weight_quantizer", "default"}


@given(st.lists(st.lists(st.integers(0, 99), max_size=9), min_size=1, max_size=40), st.integers(1, 12))
def test_rows_are_the_passages_in_order_none_longer_than_the_context(passages: list[list[int]], longest: int) -> None:
    ids = [token for passage in passages for token in passage]
    rows = calibration.rows(passages, longest)
    flat = [token for row in rows for token in row]
    assert flat == ids[: len(flat)]
    assert len({len(row) for row in rows}) == 1  # one tensor
    if len(ids) >= longest:
        assert len(rows) == min(len(ids) // longest, calibration.ROWS)
        assert {len(row) for row in rows} == {longest}
    else:
        assert flat == ids


def test_no_text_that_an_engine_is_judged_by_calibrates_it() -> None:
    texts = calibration.TEXT.parent
    judged = {line for name in ("prose.txt", "prompts.txt", "parity.txt") for line in (texts / name).open()}
    passages = calibration.read_passages()
    assert all(passages)
    assert not judged & {f"{passage}\n" for passage in passages}
