import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoint import CheckpointError
from pipeline.decoder import FAMILIES, read_decoder
from pipeline.fingerprint import FileDigests
from pipeline.generate_plan import plan_generate
from pipeline.recipe import GenerateRecipe, read_recipe
from pipeline.store import Store

DIGEST = "sha256:" + "0" * 64


def checkpoint(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_carried_family_is_bound_by_its_positions(tmp_path: Path, family: str) -> None:
    decoder = read_decoder(checkpoint(tmp_path, model_type=family, max_position_embeddings=512))
    assert (decoder.family, decoder.context, decoder.bound) == (family, 512, "max_position_embeddings")


@pytest.mark.parametrize(
    ("family", "config", "bound"),
    [
        ("mistral", {"sliding_window": 64}, "sliding_window"),
        ("mistral", {"sliding_window": None}, "max_position_embeddings"),
        ("phi3", {"sliding_window": 64}, "sliding_window"),
        # Its graph keeps the window.
        ("gemma2", {"sliding_window": 64}, "max_position_embeddings"),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 64},
            "original_max_position_embeddings",
        ),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "max_position_embeddings"),
    ],
)
def test_what_the_builder_drops_bounds_the_context(
    tmp_path: Path, family: str, config: dict[str, Any], bound: str
) -> None:
    decoder = read_decoder(checkpoint(tmp_path, model_type=family, max_position_embeddings=512, **config))
    assert (decoder.bound, decoder.context) == (bound, 512 if bound == "max_position_embeddings" else 64)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "qwen4"}, r"model_type 'qwen4'; the generate task carries llama, .*; did you mean 'qwen[23]'"),
        ({"model_type": "gemma3_text"}, "did you mean 'gemma2?'"),
        ({"model_type": "llama"}, "lacks the key 'max_position_embeddings'"),
        (
            {"model_type": "llama", "max_position_embeddings": 64, "rope_scaling": {"rope_type": "yarn"}},
            "rotary embedding of type 'yarn'; default, llama3 and Phi-3's longrope are carried",
        ),
        (
            {"model_type": "llama", "max_position_embeddings": 64, "rope_scaling": {"type": "longrope"}},
            "rotary embedding of type 'longrope'",
        ),
    ],
)
def test_a_decoder_that_cannot_be_built_is_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_decoder(checkpoint(tmp_path, **config))


@given(family=st.text(max_size=12).filter(lambda family: family not in FAMILIES))
def test_every_other_family_is_refused_with_the_list(tmp_path_factory: pytest.TempPathFactory, family: str) -> None:
    with pytest.raises(CheckpointError, match="the generate task carries llama, mistral"):
        read_decoder(checkpoint(tmp_path_factory.mktemp("checkpoint"), model_type=family))


def recipe_of(tmp_path: Path, max_tokens: int) -> GenerateRecipe:
    file = tmp_path / "tiny.toml"
    file.write_text(
        f'task = "generate"\ncheckpoint.path = "."\ncheckpoint.digest = "{DIGEST}"\nlimits.max_tokens = {max_tokens}\n'
    )
    recipe = read_recipe(file)
    assert isinstance(recipe, GenerateRecipe)
    return recipe


def test_a_recipe_cannot_promise_more_than_the_engine_is_right_for(tmp_path: Path) -> None:
    checkpoint(tmp_path, model_type="mistral", max_position_embeddings=512, sliding_window=128)
    digests, store = FileDigests(tmp_path / "digests.json"), Store(tmp_path)
    plan_generate(recipe_of(tmp_path, 128), "cpu", "fp32", tmp_path, DIGEST, digests, store)
    with pytest.raises(CheckpointError, match=r"max_tokens = 129 is more than the 128 tokens .*\(sliding_window of"):
        plan_generate(recipe_of(tmp_path, 129), "cpu", "fp32", tmp_path, DIGEST, digests, store)


def test_precisions_of_a_gguf_file_share_one_conversion(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    digests, store, recipe = FileDigests(tmp_path / "digests.json"), Store(tmp_path), recipe_of(tmp_path, 128)
    fp32, int8 = (plan_generate(recipe, "cpu", name, file, DIGEST, digests, store) for name in ("fp32", "int8"))
    assert fp32.conversion
    assert int8.conversion
    assert fp32.conversion.key == int8.conversion.key
    assert fp32.step.key != int8.step.key
