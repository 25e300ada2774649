"""The profile gpu against NVIDIA's own Triton models: nothing that theirs lack, and all that they require."""

import json
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelOutput

from ensembles import llmapi, tensorrt_llm
from ensembles.folder import placeholders
from ensembles.generate import GenerateSpec
from ensembles.lint import lint
from ensembles.model import Ensemble
from ensembles.pbtxt import ensemble_config, model_config, parse
from pipeline.assemble import assemble, configs, drift
from pipeline.recipe import read_recipes
from pipeline.served import ensemble_of
from pipeline.tensorrt_llm.serving_parameters import ServingParameters, as_parameters
from yard.checkout import RECIPES, ROOT

CONTRACTS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "contracts" / "tensorrtllm-1.2-triton-models.json").read_text()
)
ENGINE = CONTRACTS["all_models/inflight_batcher_llm/tensorrt_llm"]
ENSEMBLE = CONTRACTS["all_models/inflight_batcher_llm/ensemble"]
LLMAPI = CONTRACTS["all_models/llmapi/tensorrt_llm"]
SPEC = GenerateSpec("m", max_tokens=4096, max_text_bytes=65536, slots=64, max_queue_size=256)
GPU = ROOT / "model_repository" / "gpu"
# Ours beyond NVIDIA's ensemble.
OWN_INPUTS = {"messages"}
OWN_OUTPUTS = {"finish_reason"}
# What only encoder-decoder models have, what is for several machines, and what 1.2 has no use for any more.
NOT_OURS = {"encoder_model_path", "cross_kv_cache_fraction", "participant_ids", "num_nodes", "sink_token_length"}


def told(tensor: ModelInput | ModelOutput) -> dict[str, Any]:
    """A tensor as the contract writes it down."""
    found: dict[str, Any] = {"dtype": DataType.Name(tensor.data_type), "dims": list(tensor.dims)}
    if tensor.HasField("reshape"):
        found["reshape"] = list(tensor.reshape.shape)
    if isinstance(tensor, ModelInput):
        found |= {"optional": True} if tensor.optional else {}
        found |= {"ragged": True} if tensor.allow_ragged_batch else {}
    return found


def decoder(ensemble: Ensemble) -> ModelConfig:
    return model_config(ensemble.models[1])


@pytest.mark.parametrize(
    ("config", "contract"),
    [
        (decoder(tensorrt_llm.tensorrt_llm_ensemble(SPEC, {})), ENGINE),
        (decoder(llmapi.llmapi_ensemble(SPEC)), LLMAPI),
    ],
    ids=["tensorrt_llm", "llmapi"],
)
def test_the_decoders_tensors_are_nvidias_own(config: ModelConfig, contract: dict[str, Any]) -> None:
    assert {tensor.name: told(tensor) for tensor in config.input} == contract["inputs"]
    assert {tensor.name: told(tensor) for tensor in config.output} == contract["outputs"]


def test_the_ensemble_speaks_nvidias_names_types_and_shapes() -> None:
    config = ensemble_config(tensorrt_llm.tensorrt_llm_ensemble(SPEC, {}))
    for tensors, contract, own in (
        (config.input, ENSEMBLE["inputs"], OWN_INPUTS),
        (config.output, ENSEMBLE["outputs"], OWN_OUTPUTS),
    ):
        for tensor in tensors:
            if tensor.name in own:
                assert tensor.name not in contract
                continue
            theirs = contract[tensor.name]
            assert (told(tensor)["dtype"], told(tensor)["dims"]) == (theirs["dtype"], theirs["dims"]), tensor.name


def test_what_nvidias_engine_requires_is_mapped_and_what_it_must_be_asked_for_is_asked() -> None:
    (step,) = [step for step in tensorrt_llm.tensorrt_llm_ensemble(SPEC, {}).steps if step.model.name == "m_decoder"]
    required = {name for name, tensor in ENGINE["inputs"].items() if not tensor.get("optional")}
    assert required | {"input_ids"} <= step.inputs.keys()
    # Without both the backend answers "tensor must be present in list of output tensors".
    assert {"output_ids", "sequence_length"} <= step.outputs.keys()


def test_the_llm_api_says_in_model_yaml_what_it_may_not_say_in_its_config() -> None:
    config = decoder(llmapi.llmapi_ensemble(SPEC))
    assert not config.HasField("model_transaction_policy")
    assert config.max_batch_size == 0
    assert [step.model.backend for step in llmapi.llmapi_ensemble(SPEC).steps] == ["tokenizer", "llmapi"]


def test_parameters_are_nvidias_and_complete() -> None:
    declared = as_parameters(ServingParameters(), "/models/m_decoder/1").keys()
    every = {*ServingParameters.model_fields} - {"batching_strategy"} | {"gpt_model_type"} | declared
    assert every <= ENGINE["parameters"].keys()
    assert ENGINE["parameters"].keys() - every == NOT_OURS
    # The backend does not load without these.
    assert {
        "gpt_model_type",
        "gpt_model_path",
        "tokenizer_dir",
        "xgrammar_tokenizer_info_path",
        "guided_decoding_backend",
    } <= declared


@pytest.mark.parametrize(
    ("serving", "key", "value"),
    [
        ({}, "gpt_model_type", "inflight_fused_batching"),
        ({}, "gpt_model_path", "/models/m_decoder/1"),
        ({}, "exclude_input_in_output", "true"),
        ({}, "xgrammar_tokenizer_info_path", ""),
        ({"guided_decoding_backend": "xgrammar"}, "guided_decoding_backend", "xgrammar"),
        (
            {"guided_decoding_backend": "xgrammar"},
            "xgrammar_tokenizer_info_path",
            "/models/m_decoder/1/xgrammar_tokenizer_info.json",
        ),
        ({"max_attention_window_size": [4096, 1024]}, "max_attention_window_size", "4096,1024"),
        ({"gpu_device_ids": [0, 1]}, "gpu_device_ids", "0,1"),
        ({"enable_chunked_context": False}, "enable_chunked_context", "false"),
        ({"kv_cache_free_gpu_mem_fraction": 0.85}, "kv_cache_free_gpu_mem_fraction", "0.85"),
        ({"kv_cache_host_memory_bytes": 45000000000}, "kv_cache_host_memory_bytes", "45000000000"),
    ],
)
def test_parameters_are_written_as_the_backend_parses_them(serving: dict[str, Any], key: str, value: str) -> None:
    assert as_parameters(ServingParameters(**serving), "/models/m_decoder/1")[key] == value


def test_the_committed_configs_are_what_the_recipes_give() -> None:
    assert drift(GPU, configs(read_recipes(RECIPES, "gpu"), "gpu")) == []


def test_every_committed_config_is_valid_and_has_nothing_left_to_fill() -> None:
    files = sorted(GPU.glob("*/config.pbtxt"))
    assert len(files) >= 8
    for file in files:
        config = parse(file.read_text(), str(file))
        assert config.name == file.parent.name
        assert list(placeholders(config)) == []
        assert "${" not in file.read_text()


def test_the_lint_finds_nothing_but_the_engines_that_are_not_built(tmp_path: Path) -> None:
    recipes = read_recipes(RECIPES, "gpu")
    assemble(tmp_path / "gpu", [], keep_others=False, unbuilt=[ensemble_of(recipe, "gpu") for recipe in recipes])
    assert {finding.rule for finding in lint(tmp_path / "gpu")} == {"TY104"}
