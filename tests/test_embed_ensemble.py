"""The embed ensemble wherever its encoder runs: what its config.pbtxt says, and that nothing else moves with it."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from ensembles.embed import EmbedSpec, Runtime, embed_ensemble, length_buckets, plan_file, shape_profile
from ensembles.pbtxt import dump, parse

SPEC = EmbedSpec("minilm", ("input_ids", "attention_mask", "token_type_ids"), 384, "mean", True, 256, 65536, 64, 1024)
# The parameters that NVIDIA's backend knows; another one is refused when the model loads (src/onnxruntime.cc).
TENSORRT_OPTIONS = {
    "precision_mode", "max_workspace_size_bytes", "trt_max_partition_iterations", "trt_min_subgraph_size",
    "trt_engine_cache_enable", "trt_engine_cache_path", "trt_engine_cache_prefix", "trt_force_sequential_engine_build",
    "trt_context_memory_sharing_enable", "trt_layer_norm_fp32_fallback", "trt_timing_cache_enable",
    "trt_timing_cache_path", "trt_builder_optimization_level", "trt_auxiliary_streams", "trt_profile_min_shapes",
    "trt_profile_max_shapes", "trt_profile_opt_shapes", "trt_cuda_graph_enable",
}  # fmt: skip


def encoder(runtime: Runtime, **changes: object) -> ModelConfig:
    spec = replace(SPEC, runtime=runtime, **changes)  # type: ignore[arg-type]
    return parse(dump(embed_ensemble(spec).models[1]), "encoder")


@pytest.mark.parametrize(
    ("runtime", "backend", "kind"),
    [
        ("onnx_cpu", "onnxruntime", "KIND_CPU"),
        ("onnx_cuda", "onnxruntime", "KIND_GPU"),
        ("onnx_tensorrt", "onnxruntime", "KIND_GPU"),
        ("tensorrt", "tensorrt", "KIND_GPU"),
    ],
)
def test_only_the_encoder_moves(runtime: Runtime, backend: str, kind: str) -> None:
    config = encoder(runtime, instances=3, compute_capabilities=("9.0",))
    (group,) = config.instance_group
    assert (config.backend, group.Kind.Name(group.kind), group.count) == (backend, kind, 3)
    assert config.HasField("optimization") == (runtime == "onnx_tensorrt")
    assert bool(config.cc_model_filenames) == (runtime == "tensorrt")
    ensemble, before = embed_ensemble(replace(SPEC, runtime=runtime)), embed_ensemble(SPEC)
    for model, other in ((ensemble, before), *zip(ensemble.models[::2], before.models[::2], strict=True)):
        assert dump(model) == dump(other)
    assert [(each.name, each.data_type, each.dims) for each in (*config.input, *config.output)] == [
        (each.name, each.data_type, each.dims) for each in (*encoder("onnx_cpu").input, *encoder("onnx_cpu").output)
    ]


@pytest.mark.parametrize(("fp16", "precision"), [(True, "FP16"), (False, "FP32")])
def test_the_tensorrt_provider_gets_options_that_it_knows(fp16: bool, precision: str) -> None:
    (accelerator,) = encoder("onnx_tensorrt", fp16=fp16).optimization.execution_accelerators.gpu_execution_accelerator
    options = dict(accelerator.parameters)
    assert accelerator.name == "tensorrt"
    assert options.keys() <= TENSORRT_OPTIONS
    assert options["precision_mode"] == precision
    assert options["trt_profile_min_shapes"] == "input_ids:1x1,attention_mask:1x1,token_type_ids:1x1"
    assert options["trt_profile_opt_shapes"] == "input_ids:16x64,attention_mask:16x64,token_type_ids:16x64"
    assert options["trt_profile_max_shapes"] == "input_ids:64x256,attention_mask:64x256,token_type_ids:64x256"
    assert options["trt_engine_cache_enable"] == "1"


def test_engine_caches_are_apart_and_their_parents_are_there() -> None:
    paths = set()
    for name in ("minilm", "bge"):
        (accelerator,) = encoder(
            "onnx_tensorrt", name=name
        ).optimization.execution_accelerators.gpu_execution_accelerator
        paths.add(Path(accelerator.parameters["trt_engine_cache_path"]))
    assert len(paths) == 2
    assert {path.parent for path in paths} == {Path("/var/cache")}


def test_each_compute_capability_has_its_own_plan() -> None:
    files = encoder("tensorrt", compute_capabilities=("8.9", "9.0", "12.0")).cc_model_filenames
    assert dict(files) == {"8.9": "model_cc89.plan", "9.0": "model_cc90.plan", "12.0": "model_cc120.plan"}
    assert set(files.values()) == set(map(plan_file, files))


@given(st.integers(1, 1024), st.integers(8, 32768))
def test_a_profile_takes_all_that_the_tokenizer_sends(max_batch_size: int, max_tokens: int) -> None:
    profile = shape_profile(max_batch_size, max_tokens)
    assert profile.max == (max_batch_size, length_buckets(max_tokens)[-1])
    # A full batch is padded to its own longest text, which may be one token.
    assert profile.min == (1, 1)
    texts, tokens = profile.opt
    assert 1 <= texts <= max_batch_size
    assert tokens in length_buckets(max_tokens)
    assert tokens <= max(max_tokens // 4, 8)
