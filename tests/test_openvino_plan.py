"""The engine kind `openvino`: what a recipe may say of it, what serves it, and how its weights are rounded."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants

from ensembles.declaration import DeclarationError
from pipeline.checkpoint import CheckpointError
from pipeline.engines import Engines
from pipeline.openvino_decoder import OpenVinoError, build, round_weights
from pipeline.openvino_plan import OpenVinoPlan, plan_openvino
from pipeline.plan import Plan
from pipeline.recipe import GenerateRecipe, read_recipe
from pipeline.served import ensemble_of
from pipeline.store import Artefact
from yard.checkout import RECIPES


def recipe_of(folder: Path, engine: str) -> GenerateRecipe:
    file = folder / "smollm2.toml"
    text = (RECIPES / "smollm2.toml").read_text().replace('engine.cpu.speculation = "prompt_lookup"\n', "")
    file.write_text(text.replace('engine.cpu.precision = "int8"', f"engine.cpu = {engine}"))
    recipe = read_recipe(file)
    assert isinstance(recipe, GenerateRecipe)
    return recipe


def test_it_is_built_in_int8_alone(tmp_path: Path) -> None:
    assert recipe_of(tmp_path, '{ kind = "openvino", precision = "int8" }').engine.cpu
    with pytest.raises(DeclarationError, match="kind = 'openvino' is built in int8, not fp32"):
        recipe_of(tmp_path, '{ kind = "openvino", precision = "fp32" }')


def test_only_the_decoders_backend_is_another(tmp_path: Path) -> None:
    onnx, openvino = (
        ensemble_of(recipe_of(tmp_path, f'{{ kind = "{kind}" }}'), "cpu") for kind in ("onnx", "openvino")
    )
    assert [model.backend for model in openvino.models] == ["tokenizer", "openvino_generate", "detokenizer"]
    assert (openvino.inputs, openvino.outputs) == (onnx.inputs, onnx.outputs)
    for one, other in zip(onnx.models, openvino.models, strict=True):
        assert replace(other, backend=one.backend) == one


def test_a_precision_that_is_asked_for_is_onnxs(tmp_path: Path) -> None:
    """What `yard engines --compare` holds side by side."""
    engines, recipe = Engines(tmp_path), recipe_of(tmp_path, '{ kind = "openvino" }')
    assert isinstance(engines.plan(recipe), OpenVinoPlan)
    assert [engines.plan(recipe, precision=each).label for each in ("fp32", "int8")] == ["fp32", "int8"]


def test_what_genai_does_not_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, engines = recipe_of(tmp_path, '{ kind = "openvino" }'), Engines(tmp_path)
    with pytest.raises(CheckpointError, match="is a folder, and kind = 'openvino' reads GGUF files; say kind = 'onnx'"):
        plan_openvino(recipe, tmp_path, "sha256:0", engines._digests, engines.store)
    with pytest.raises(CheckpointError, match="model_type 'gemma2'; OpenVINO GenAI reads GGUF files of llama, qwen2"):
        build(tmp_path / "model.gguf", "gemma2", tmp_path)
    monkeypatch.setitem(sys.modules, "openvino_genai", None)
    with pytest.raises(OpenVinoError, match=r"cannot be loaded .* run `make setup`"):
        build(tmp_path / "model.gguf", "llama", tmp_path)


def test_matrices_are_rounded_and_all_else_is_kept(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    matrix, norm = draw.normal(size=(4, 64)).astype(np.float32), draw.normal(size=33).astype(np.float32)
    writer = GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_context_length(512)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é"])
    kind = GGMLQuantizationType.Q4_1
    writer.add_tensor("blk.0.ffn_up.weight", quants.quantize(matrix, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    round_weights(tmp_path / "in.gguf", tmp_path / "out.gguf")
    before, after = GGUFReader(tmp_path / "in.gguf"), GGUFReader(tmp_path / "out.gguf")
    for name in ("general.architecture", "llama.context_length", "tokenizer.ggml.tokens"):
        assert after.fields[name].contents() == before.fields[name].contents()
    up, kept = after.tensors
    assert (up.name, up.tensor_type, list(up.shape)) == ("blk.0.ffn_up.weight", GGMLQuantizationType.Q8_0, [64, 4])
    given = quants.dequantize(before.tensors[0].data, kind)
    scales = abs(given.reshape(4, 2, 32)).max(axis=2, keepdims=True) / 127
    error = abs(quants.dequantize(up.data, up.tensor_type) - given).reshape(4, 2, 32)
    assert (error <= scales * 0.51).all()
    assert error.any()
    assert np.array_equal(kept.data, norm)


@pytest.mark.build
@pytest.mark.skipif(not find_spec("openvino_genai"), reason="openvino-genai is not installed; run `make setup`")
def test_the_real_engine_says_what_its_checkpoint_says(openvino: tuple[Plan, Artefact]) -> None:
    fidelity = openvino[1].facts["fidelity"]
    assert abs(fidelity["perplexity"] / fidelity["checkpoint_perplexity"] - 1) < 0.02
    assert fidelity["greedy_agreement"] > 0.94
