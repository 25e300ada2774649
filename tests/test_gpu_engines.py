"""Engines of the profile gpu: what recipes may declare, and the commands that follow, by tables and recorded tools."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import write_decoder

from ensembles.declaration import DeclarationError
from pipeline.assemble import assemble
from pipeline.checkpoint import CheckpointError, checkpoint_digest
from pipeline.engines import Engines
from pipeline.fingerprint import FileDigests
from pipeline.gpu import GpuError
from pipeline.gpu_engines import BuildFlags, TensorRtLlmEngine
from pipeline.gpu_fingerprint import read_fingerprint
from pipeline.gpu_fit import FitError
from pipeline.quality import QualityError
from pipeline.recipe import GenerateLimits, GenerateRecipe, read_recipe
from pipeline.runner import NOT_FOUND, Ran
from pipeline.tensorrt_llm import export
from pipeline.tensorrt_llm.build_command import build_command
from pipeline.tensorrt_llm.engine_build import EngineBuildError
from pipeline.tensorrt_llm.engine_plan import printed_commands
from pipeline.tensorrt_llm.migration import migration
from pipeline.tensorrt_version import TensorRtVersionError

LIMITS = GenerateLimits(max_tokens=4096, slots=64)
RECIPE = """\
task = "generate"
checkpoint.path = "{path}"
checkpoint.digest = "{digest}"
limits.max_tokens = 128
limits.slots = 4
[engine.gpu]
kind = "tensorrt_llm"
dtype = "float16"
"""
# `trtllm-build --help` of TensorRT-LLM 1.2.1: the flags that a recipe can lead to.
FLAGS = {
    *("--checkpoint_dir", "--output_dir", "--max_batch_size", "--max_input_len", "--max_seq_len", "--max_num_tokens"),
    *("--max_beam_width", "--kv_cache_type", "--workers", "--gemm_plugin", "--gpt_attention_plugin"),
    *("--use_paged_context_fmha", "--use_fp8_context_fmha", "--multiple_profiles", "--reduce_fusion"),
    *("--logits_dtype", "--gather_context_logits", "--gather_generation_logits", "--speculative_decoding_mode"),
    *("--max_draft_len", "--lora_plugin", "--lora_target_modules", "--max_lora_rank"),
}
GONE = {"--max_output_len", "--auto_parallel", "--gpus_per_node", "--cluster_key"}


def engine(**table: Any) -> TensorRtLlmEngine:
    return TensorRtLlmEngine.model_validate({"kind": "tensorrt_llm", **table})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, []),
        (
            {"build": {"gemm_plugin": "auto", "workers": 4}},
            ["--gemm_plugin=auto", "--workers=4"],
        ),
        ({"build": {"gather_context_logits": True}}, ["--gather_context_logits"]),
        (
            {"build": {"speculative_decoding_mode": "lookahead_decoding", "max_draft_len": 83}},
            ["--speculative_decoding_mode=lookahead_decoding", "--max_draft_len=83"],
        ),
        (
            {"build": {"lora_plugin": "auto", "max_lora_rank": 16, "lora_target_modules": ["attn_q", "attn_v"]}},
            ["--lora_plugin=auto", "--lora_target_modules", "attn_q", "attn_v", "--max_lora_rank=16"],
        ),
    ],
)
def test_the_builders_arguments(table: dict[str, Any], words: list[str]) -> None:
    argv = build_command(engine(**table), LIMITS, "/checkpoint", "/engine")
    assert argv == [
        "trtllm-build",
        "--checkpoint_dir=/checkpoint",
        "--output_dir=/engine",
        "--max_batch_size=64",
        "--max_input_len=4095",
        "--max_seq_len=4096",
        "--max_num_tokens=8192",
        "--max_beam_width=1",
        *words,
    ]


def test_every_flag_is_one_that_the_release_has() -> None:
    every = {
        **dict.fromkeys(("use_paged_context_fmha", "use_fp8_context_fmha", "multiple_profiles"), "enable"),
        **{"reduce_fusion": "enable", "gemm_plugin": "fp8", "gpt_attention_plugin": "auto", "kv_cache_type": "paged"},
        **{"logits_dtype": "float32", "gather_context_logits": True, "gather_generation_logits": True, "workers": 2},
        **{"speculative_decoding_mode": "eagle", "max_draft_len": 4, "lora_plugin": "auto", "max_lora_rank": 8},
        **{"lora_target_modules": ["attn_qkv"], "max_beam_width": 2, "max_num_tokens": 4096},
    }
    assert every.keys() == BuildFlags.model_fields.keys(), "each flag is given, so that each is looked at"
    argv = build_command(engine(build=every), LIMITS, "/checkpoint", "/engine")
    flags = {word.split("=")[0] for word in argv if word.startswith("--")}
    assert flags == FLAGS
    assert not flags & GONE


@pytest.mark.parametrize(
    ("table", "fact"),
    [
        ({"release": "1.3.0"}, "TensorRT-LLM 1.3.0 has dropped the engine path.*kind = 'llmapi'.*release = '1.2.1'"),
        ({"release": "2.0rc1"}, "TensorRT-LLM 2.0rc1 has dropped the engine path"),
        ({"kv_cache": "fp8"}, "kv_cache = 'fp8' is calibrated together with the weights"),
        ({"kv_cache": "int8", "quantisation": "w8a16"}, "calibrated together with the weights"),
        (
            {"build": {"use_paged_context_fmha": "disable"}},
            "enable_chunked_context and serving.enable_kv_cache_reuse need",
        ),
        ({"build": {"max_draft_len": 4}}, "max_draft_len is for an engine with a speculative_decoding_mode"),
        ({"build": {"max_lora_rank": 8}}, "for an engine with a lora_plugin"),
        ({"serving": {"decoding_mode": "lookahead"}}, "lookahead_window_size"),
        ({"serving": {"lookahead_ngram_size": 4}}, "lookahead_window_size"),
        ({"serving": {"cuda_graph_cache_size": 8}}, "cuda_graph_cache_size is for cuda_graph_mode = true"),
        ({"serving": {"kv_cache_free_gpu_mem_fraction": 1.0}}, "less than 1"),
        ({"serving": {"batching_strategy": "V1"}}, "inflight_fused_batching"),
        ({"tp": 0}, "greater than or equal to 1"),
    ],
)
def test_what_an_engine_may_not_declare(table: dict[str, Any], fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        engine(**table)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tensorrt_llm"', '"tensorrt-llm"', "engine.gpu.kind = 'tensorrt-llm' is not one of tensorrt_llm, llmapi"),
        ('kind = "tensorrt_llm"\n', "", "key 'engine.gpu.kind' is missing"),
        ('"float16"', '"float32"', "engine.gpu.dtype = 'float32' is not one of float16, bfloat16"),
        ('"float16"', '"float16"\nserving.bach_scheduler_policy = "x"', "did you mean 'batch_scheduler_policy'"),
        ('[engine.gpu]\nkind = "tensorrt_llm"\ndtype = "float16"\n', "[engine]\n", "give an engine for cpu or gpu"),
    ],
)
def test_a_broken_gpu_table_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = tmp_path / "m.toml"
    file.write_text(RECIPE.format(path=".", digest="sha256:" + "0" * 64).replace(old, new))
    with pytest.raises(DeclarationError) as caught:
        read_recipe(file)
    assert message in str(caught.value)


def hub_recipe(tmp_path: Path, revision: str) -> Path:
    file = tmp_path / "m.toml"
    text = RECIPE.format(path=".", digest="")
    lines = ['checkpoint.hub = "org/name"', f'checkpoint.revision = "{revision}"']
    kept = [line for line in text.splitlines() if not line.startswith("checkpoint")]
    file.write_text("\n".join([*lines, *kept]))
    return file


def test_a_hub_commit_needs_no_digest_and_a_branch_does(tmp_path: Path) -> None:
    assert read_recipe(hub_recipe(tmp_path, "0123456789" * 4)).checkpoint.digest is None
    with pytest.raises(DeclarationError, match="only a Hub revision that is a commit of 40 hex digits"):
        read_recipe(hub_recipe(tmp_path, "main"))


def test_the_commands_are_printed_without_weights_or_gpu(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    table = 'kind = "tensorrt_llm"\nquantisation = "fp8"\nkv_cache = "fp8"\ntp = 4'
    file.write_text(RECIPE.format(path=".", digest="sha256:" + "0" * 64).replace('kind = "tensorrt_llm"', table))
    recipe = read_recipe(file)
    assert isinstance(recipe, GenerateRecipe)
    assert isinstance(recipe.engine.gpu, TensorRtLlmEngine)
    convert, build = printed_commands(recipe, recipe.engine.gpu)
    assert convert[:2] == ["yard", "convert"]
    assert {"--tp=4", "--quantisation=fp8", "--kv-cache=fp8"} <= set(convert)
    assert build[:2] == ["docker", "run"]
    assert "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3" in build
    assert build[build.index("trtllm-build") :][:3] == [
        "trtllm-build",
        "--checkpoint_dir=/checkpoint",
        "--output_dir=/engine",
    ]


def test_a_migration_names_what_is_renamed_and_lost(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(RECIPE.format(path=".", digest="sha256:" + "0" * 64) + 'serving.decoding_mode = "top_k"\n')
    recipe = read_recipe(file)
    assert isinstance(recipe, GenerateRecipe)
    assert isinstance(recipe.engine.gpu, TensorRtLlmEngine)
    found = migration(recipe, recipe.engine.gpu)
    assert found.renamed["temperature"] == ("temperature", "sampling_param_temperature")
    assert found.renamed["max_tokens"] == ("request_output_len", "sampling_param_max_tokens")
    assert found.renamed["stop_words"] == ("stop_words_list", "sampling_param_stop")
    assert {"repetition_penalty", "lora_task_id", "guided_decoding_guide"} <= set(found.gone_inputs)
    assert found.gone_outputs == ("num_input_tokens", "num_output_tokens")
    assert found.gone_settings == ("serving.decoding_mode",)
    assert "detokenizer" in found.models[0][2]
    assert len(found.models[1]) == 2
    assert "decoupled: true" in found.model_yaml


# What follows builds with the tools of a GPU machine as they were recorded: nvidia-smi, Docker and trtllm-build.
SMI = "0, GPU-1, NVIDIA L4, 23034, 590.44.01, [N/A], 8.9\n"


def tools(smi: Ran, versions: Ran) -> Callable[[Sequence[str]], Ran]:
    def run(argv: Sequence[str]) -> Ran:
        return smi if argv[0] == "nvidia-smi" else versions

    return run


def builder(
    code: int = 0, release: str = "1.2.1", ranks: int = 1, said: Sequence[str] = ("[TRT-LLM] [I] Building engine",)
) -> Callable[[Sequence[str], Callable[[str], None]], int]:
    """A trtllm-build that looks at what it is given, and leaves what the real one leaves."""

    def stream(argv: Sequence[str], on_line: Callable[[str], None]) -> int:
        if argv[:2] == ["docker", "pull"]:
            return 0
        mounts = dict(reversed(word.removeprefix("--volume=").split(":")[:2]) for word in argv if "--volume=" in word)
        checkpoint, out = Path(mounts["/checkpoint"]), Path(mounts["/engine"])
        assert json.loads((checkpoint / "config.json").read_text())["architecture"] == "LlamaForCausalLM"
        assert (checkpoint / "rank0.safetensors").exists()
        for line in said:
            on_line(line)
        if not code:
            (out / "config.json").write_text(json.dumps({"version": release}))
            for rank in range(ranks):
                (out / f"rank{rank}.engine").write_bytes(b"engine")
        return code

    return stream


VERSIONS = Ran(0, '[TensorRT-LLM] TensorRT-LLM version: 1.2.1\n["10.14.1.48", "13.1.0"]\n')


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> GenerateRecipe:
    folder = tmp_path_factory.mktemp("recipes")
    write_decoder(folder / "checkpoint", "llama")
    digest = checkpoint_digest(folder / "checkpoint", FileDigests(folder / "digests.json"))
    (folder / "tiny.toml").write_text(RECIPE.format(path="checkpoint", digest=digest))
    found = read_recipe(folder / "tiny.toml")
    assert isinstance(found, GenerateRecipe)
    return found


def quiet(_: str) -> None:
    pass


@pytest.mark.build
def test_an_engine_is_converted_built_recorded_and_assembled(recipe: GenerateRecipe, tmp_path: Path) -> None:
    engines = Engines(tmp_path / "artifacts", tools(Ran(0, SMI), VERSIONS), builder())
    plan = engines.plan(recipe, "gpu")
    lines: list[str] = []
    artefact = engines.build(plan, lines.append)
    assert "[TRT-LLM] [I] Building engine" in lines, "the builder's output is streamed"
    fingerprint = read_fingerprint(artefact.folder / "fingerprint.json")
    assert (fingerprint.tensorrt_llm, fingerprint.tensorrt, fingerprint.cuda) == ("1.2.1", "10.14.1.48", "13.1.0")
    assert (fingerprint.compute_capability, fingerprint.tp, fingerprint.pp) == ("8.9", 1, 1)
    assert fingerprint.limits["max_seq_len"] == 128
    assert fingerprint.checkpoint == recipe.checkpoint.digest
    names = assemble(tmp_path / "gpu", [(plan, artefact)], keep_others=False)
    assert names == ["tiny", "tiny_decoder", "tiny_detokenizer", "tiny_tokenizer"]
    decoder = {file.name for file in (tmp_path / "gpu" / "tiny_decoder" / "1").iterdir()}
    assert {"rank0.engine", "config.json", "fingerprint.json"} <= decoder
    assert {file.name for file in (tmp_path / "gpu" / "tiny_tokenizer" / "1").iterdir()} == {
        "tokenizer.json",
        "chat.json",
        "decoder.json",
    }
    assert engines.why(plan) == []
    other = Engines(tmp_path / "artifacts", tools(Ran(0, SMI.replace("8.9", "9.0")), VERSIONS), builder())
    assert other.why(other.plan(recipe, "gpu")) == ["changed: compute_capability: 8.9 -> 9.0"]


@pytest.mark.build
@pytest.mark.parametrize(
    ("stream", "versions", "error", "fact"),
    [
        (
            builder(code=1, said=["Traceback", "RuntimeError: Provided weight size mismatch"]),
            VERSIONS,
            EngineBuildError,
            "trtllm-build failed with exit code 1; its last words:\n  Traceback\n  RuntimeError: Provided weight",
        ),
        (
            builder(release="1.1.0"),
            VERSIONS,
            EngineBuildError,
            "was built by TensorRT-LLM 1.1.0, the recipe asks for 1.2.1",
        ),
        (builder(ranks=0), VERSIONS, EngineBuildError, "left no rank0.engine of 1"),
        (builder(), Ran(NOT_FOUND, stderr="docker: No such file"), TensorRtVersionError, "does not tell its TensorRT"),
    ],
)
def test_a_failed_build_is_explained_and_leaves_nothing(
    recipe: GenerateRecipe, tmp_path: Path, stream: Any, versions: Ran, error: type[Exception], fact: str
) -> None:
    engines = Engines(tmp_path / "artifacts", tools(Ran(0, SMI), versions), stream)
    with pytest.raises(error) as caught:
        engines.build(engines.plan(recipe, "gpu"), quiet)
    assert fact in str(caught.value)
    assert not list((tmp_path / "artifacts").glob("tensorrt_llm_engine/*"))
    assert not list((tmp_path / "artifacts" / "tmp").iterdir())


@pytest.mark.build
def test_a_quantisation_that_is_too_far_from_its_checkpoint_is_refused(
    recipe: GenerateRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = recipe.file.with_name("quantised.toml")
    file.write_text(recipe.file.read_text() + 'quantisation = "int8_sq"\n')
    measured = {"perplexity": 36.0, "checkpoint_perplexity": 30.0}
    # modelopt takes a minute; what it measures is what counts here.
    monkeypatch.setattr(export, "quantise", lambda *_: measured)
    engines = Engines(tmp_path / "artifacts", tools(Ran(0, SMI), VERSIONS), builder())
    with pytest.raises(QualityError, match=r"perplexity 36.00, 20.0% above its own; .* allows 15.0%"):
        engines.build(engines.plan(read_recipe(file), "gpu"), quiet)
    assert not list((tmp_path / "artifacts").glob("tensorrt_llm_checkpoint/*"))


@pytest.mark.build
def test_what_does_not_fit_is_refused_before_it_is_converted(recipe: GenerateRecipe, tmp_path: Path) -> None:
    small = Ran(0, SMI.replace("23034", "1024"))
    engines = Engines(tmp_path / "artifacts", tools(small, VERSIONS), builder())
    with pytest.raises(FitError, match="does not fit"):
        engines.build(engines.plan(recipe, "gpu"), quiet)
    assert not (tmp_path / "artifacts" / "tensorrt_llm_checkpoint").exists()


@pytest.mark.build
def test_without_a_gpu_there_is_no_plan(recipe: GenerateRecipe, tmp_path: Path) -> None:
    engines = Engines(tmp_path / "artifacts", tools(Ran(NOT_FOUND), VERSIONS), builder())
    with pytest.raises(GpuError, match="nvidia-smi is not installed"):
        engines.plan(recipe, "gpu")


@pytest.mark.build
def test_a_checkpoint_that_is_not_the_one_described_is_refused(recipe: GenerateRecipe, tmp_path: Path) -> None:
    described = recipe.file.with_suffix("")
    described.mkdir()
    try:
        (described / "config.json").write_text(json.dumps({"hidden_size": 65}))
        with pytest.raises(CheckpointError, match=r"its config.json has hidden_size = 64, .* says 65"):
            Engines(tmp_path / "artifacts", tools(Ran(0, SMI), VERSIONS), builder()).plan(recipe, "gpu")
    finally:
        (described / "config.json").unlink()
        described.rmdir()


@pytest.mark.build
def test_the_llm_apis_folder_is_complete(recipe: GenerateRecipe, tmp_path: Path) -> None:
    file = recipe.file.with_name("api.toml")
    file.write_text(recipe.file.read_text().replace('"tensorrt_llm"\ndtype = "float16"', '"llmapi"'))
    engines = Engines(tmp_path / "artifacts", tools(Ran(NOT_FOUND), Ran(NOT_FOUND)), builder())
    plan = engines.plan(read_recipe(file), "gpu")
    assemble(tmp_path / "gpu", [(plan, engines.build(plan, quiet))], keep_others=False)
    version = tmp_path / "gpu" / "api_decoder" / "1"
    assert "model: /models/api_decoder/1/checkpoint\n" in (version / "model.yaml").read_text()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (version / "checkpoint" / name).read_bytes() == (recipe.file.parent / "checkpoint" / name).read_bytes()
