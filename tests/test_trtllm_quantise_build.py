"""Quantisation by the real modelopt, where it is installed; and what becomes of the process that it runs in."""

import importlib.util
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from tiny import write_decoder
from trtllm_checkpoints import config_of, random_tensors, shapes_of, write_checkpoint

from pipeline.tensorrt_llm import calibration, quantise
from pipeline.tensorrt_llm.convert import convert
from pipeline.tensorrt_llm.quantised_checkpoint import Quantisation, QuantisationError

pytestmark = pytest.mark.build

needs_modelopt = pytest.mark.skipif(
    importlib.util.find_spec("modelopt") is None,
    reason="nvidia-modelopt is not installed: python3.11 bootstrap.py --extra quantise",
)
SIZES: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "head_dim": 32}
# 64 positions make the passes over the text short.
SIZES |= {"vocab_size": 128, "max_position_embeddings": 64}
# Each family in one of the algorithms: kv heads that are shared out and that are repeated, a tied head, wide heads.
CASES: list[tuple[str, dict[str, Any], Quantisation]] = [
    ("llama", {"num_key_value_heads": 1}, Quantisation("fp8", "fp8", tp=2, dtype="bfloat16")),
    ("mistral", {"num_key_value_heads": 1}, Quantisation("int4_awq", tp=2)),
    ("qwen2", {"num_key_value_heads": 4}, Quantisation("int8_sq", "int8", tp=2, pp=2)),
    (
        "qwen3",
        {"num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True},
        Quantisation("w4a8_awq", "fp8", tp=2, dtype="bfloat16"),
    ),
]
# How far the weights may be from the checkpoint's, relative to their size: a layer put together wrongly is at 1.4.
LIMITS = {"fp8": 0.04, "int8_sq": 0.02, "int4_awq": 0.2, "w4a8_awq": 0.2}


def weights(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, in torch."""
    from safetensors.torch import load_file

    tensors: dict[str, Any] = load_file(file)
    return tensors


def dequantised(tensors: dict[str, Any], layer: str) -> Any:
    """The weight [out, in] that the engine multiplies with, in float32."""
    import torch

    weight, scale = tensors[f"{layer}.weight"], tensors[f"{layer}.weights_scaling_factor"]
    if weight.dtype == torch.float8_e4m3fn:
        return weight.float() * scale
    if scale.ndim == 1:
        values = weight.float() * scale[:, None]
    else:  # the lower half of a byte is the upper row
        halves = torch.stack([weight << 4 >> 4, weight >> 4], dim=1).flatten(0, 1)
        values = halves.float() * scale.repeat_interleave(128, dim=1)
    return values * tensors[f"{layer}.prequant_scaling_factor"].float()


@needs_modelopt
@pytest.mark.parametrize(("family", "changes", "settings"), CASES, ids=[case[0] for case in CASES])
def test_modelopt_writes_the_plain_checkpoints_weights_in_fewer_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    family: str,
    changes: dict[str, Any],
    settings: Quantisation,
) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two spinning threads on shared cores take many times as long
    source = write_decoder(tmp_path / "source", family, **{**SIZES, **changes})
    plain, quantised = tmp_path / "plain", tmp_path / "quantised"
    plain.mkdir()
    quantised.mkdir()
    convert(source, plain, settings.split, lambda line: None)
    capfd.readouterr()
    said: list[str] = []
    facts = quantise.quantise(source, quantised, settings, said.append)
    assert capfd.readouterr() == ("", "")
    assert facts["tools"]["nvidia-modelopt"] == "0.37.0"
    assert facts["perplexity"] == pytest.approx(facts["checkpoint_perplexity"], rel=0.5)
    assert facts["perplexity"] != facts["checkpoint_perplexity"]  # it is the rounded model that was measured
    assert any(line.endswith("layer 2 of 2") for line in said)
    names = [f"rank{rank}.safetensors" for rank in range(settings.split.ranks)]
    assert {file.name for file in quantised.iterdir()} == {"config.json", *names}
    for rank, name in enumerate(names):
        wanted, found = weights(plain / name), weights(quantised / name)
        for tensor, weight in wanted.items():
            if tensor.endswith("vocab_embedding.weight"):
                assert torch.equal(found[tensor], weight.chunk(settings.tp)[rank])
            elif f"{tensor.removesuffix('weight')}weights_scaling_factor" in found:
                error = dequantised(found, tensor.removesuffix(".weight")) - weight
                assert error.norm() < LIMITS[settings.algorithm] * weight.norm(), tensor
            else:
                assert torch.equal(found[tensor], weight), tensor


def fail(source: Path, out: Path, settings: Quantisation, report: Any) -> None:
    print("noise", flush=True)
    os.write(2, b"noise of a library\n")
    raise ValueError("no such layer")


def run_and_fail(source: Path, out: Path, settings: Quantisation, lines: Connection, log: str) -> None:
    calibration.export = fail
    calibration.run(source, out, settings, lines, log)


def be_killed(source: Path, out: Path, settings: Quantisation, lines: Connection, log: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def go_on_for_ever(source: Path, out: Path, settings: Quantisation, lines: Connection, log: str) -> None:
    lines.send("one line")
    time.sleep(600)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(quantise, "require_modelopt", lambda: None)
    (tmp_path / "out").mkdir()
    config = config_of("llama")
    source = write_checkpoint(tmp_path / "source", config, random_tensors(shapes_of(config)))
    (source / "tokenizer.json").write_text("{}")
    return source


def test_a_failure_is_a_sentence_with_its_last_line_and_no_noise(
    source: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "run", run_and_fail)
    capfd.readouterr()
    with pytest.raises(QuantisationError, match=r"nvidia-modelopt failed at fp8:\n(.|\n)*ValueError: no such layer$"):
        quantise.quantise(source, source.parent / "out", Quantisation("fp8"), lambda line: None)
    assert capfd.readouterr() == ("", "")


def test_a_process_that_is_killed_for_its_memory_is_a_sentence(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "run", be_killed)
    with pytest.raises(QuantisationError, match=r"killed by signal 9; .* the whole model in float16 must fit"):
        quantise.quantise(source, source.parent / "out", Quantisation("fp8"), lambda line: None)


def test_who_stops_waiting_ends_the_process_too(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "run", go_on_for_ever)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise.quantise(source, source.parent / "out", Quantisation("fp8"), interrupt)
    assert multiprocessing.active_children() == []
