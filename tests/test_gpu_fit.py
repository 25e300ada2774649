"""Whether an engine fits: the share of the cache, the verdicts, and the sentence that refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checkpoint import CheckpointError
from pipeline.gpu import KNOWN, Gpu, KnownGpu
from pipeline.gpu_fit import FitError, config_of, fit_of, meant_for, require_fit
from pipeline.recipe import EmbedRecipe, GenerateRecipe, Recipe, read_recipe
from yard.checkout import RECIPES

HUB = f'checkpoint.hub = "org/name"\ncheckpoint.revision = "{"0" * 40}"\n'


def recipe_of(name: str) -> GenerateRecipe:
    recipe = read_recipe(RECIPES / f"{name}.toml")
    assert isinstance(recipe, GenerateRecipe)
    return recipe


def written(tmp_path: Path, engine: str, task: str = "generate", limits: str = "") -> Recipe:
    """A recipe with nothing beside it."""
    file = tmp_path / "mine.toml"
    file.write_text(f'task = "{task}"\n{HUB}limits = {{ max_tokens = 512{limits} }}\nengine.gpu = {{ {engine} }}\n')
    return read_recipe(file)


def with_limits(recipe: GenerateRecipe, **changes: int) -> GenerateRecipe:
    return replace(recipe, limits=recipe.limits.model_copy(update=changes))


def gpu(memory_mib: int, capability: str = "9.0") -> Gpu:
    return Gpu(0, "GPU-0", "NVIDIA X", capability, memory_mib, "580.65.06")


LLAMA, QWEN = recipe_of("llama-3.1-8b"), recipe_of("qwen3-8b-llmapi")
CONFIGS = {recipe.name: config_of(recipe) for recipe in (LLAMA, QWEN)}


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([LLAMA, QWEN]), st.integers(64, 40000), st.integers(1, 256), st.integers(4096, 150000))
def test_larger_limits_never_fit_better_and_what_is_short_is_just_what_is_missing(
    recipe: GenerateRecipe, max_tokens: int, slots: int, memory_mib: int
) -> None:
    config, here = CONFIGS[recipe.name], KnownGpu(memory_mib, "9.0")
    found = fit_of(with_limits(recipe, max_tokens=max_tokens, slots=slots), config, here)
    longer = fit_of(with_limits(recipe, max_tokens=2 * max_tokens, slots=slots), config, here)
    wider = fit_of(with_limits(recipe, max_tokens=max_tokens, slots=2 * slots), config, here)
    assert longer.tokens == found.tokens >= wider.tokens
    assert longer.requests <= found.requests
    assert longer.short >= found.short <= wider.short
    assert (found.short == 0) == found.is_good == (found.requests >= 1)
    mib = -(-found.short // 2**20)
    enough = fit_of(with_limits(recipe, max_tokens=max_tokens, slots=slots), config, KnownGpu(memory_mib + mib, "9.0"))
    assert enough.is_good
    if mib > 1:
        less = KnownGpu(memory_mib + mib - 2, "9.0")
        assert not fit_of(with_limits(recipe, max_tokens=max_tokens, slots=slots), config, less).is_good


def test_the_cache_gets_its_fraction_and_no_more_tokens_than_it_may_have() -> None:
    found = fit_of(LLAMA, CONFIGS["llama-3.1-8b"], KNOWN["H100 80GB"])
    assert 0 <= 0.9 * (found.total - found.memory.fixed) - found.cache < found.memory.cache_token
    engine = LLAMA.engine.gpu
    assert engine
    for serving, tokens in (
        ({"kv_cache_free_gpu_mem_fraction": 0.45}, found.tokens // 2),
        ({"max_tokens_in_paged_kv_cache": 40000}, 40000),
        ({"max_tokens_in_paged_kv_cache": 10**7}, found.tokens),
    ):
        changed = engine.model_copy(update={"serving": engine.serving.model_copy(update=serving)})
        engines = LLAMA.engine.model_copy(update={"gpu": changed})
        assert fit_of(replace(LLAMA, engine=engines), CONFIGS["llama-3.1-8b"], KNOWN["H100 80GB"]).tokens == tokens


def test_a_cache_that_may_not_hold_one_request_is_no_question_of_the_gpu() -> None:
    engine = LLAMA.engine.gpu
    assert engine
    serving = engine.serving.model_copy(update={"max_tokens_in_paged_kv_cache": 32767})
    engines = LLAMA.engine.model_copy(update={"gpu": engine.model_copy(update={"serving": serving})})
    words = (
        r"max_tokens_in_paged_kv_cache 32767 is less than one request of limits\.max_tokens 32768; change engine\.gpu"
    )
    with pytest.raises(FitError, match=words):
        require_fit(replace(LLAMA, engine=engines), [gpu(81559)])


def test_the_verdict_is_about_all_slots_at_full_length() -> None:
    config = CONFIGS["llama-3.1-8b"]
    most = fit_of(LLAMA, config, KNOWN["H100 80GB"]).tokens
    for limits, verdict in (
        ({"slots": 128, "max_tokens": most // 128}, "fits"),
        ({"slots": 128, "max_tokens": most // 128 + 1}, "fits with paging"),
        ({"slots": 128, "max_tokens": most}, "fits with paging"),
        ({"slots": 128, "max_tokens": most + 1}, "does not fit"),
    ):
        assert fit_of(with_limits(LLAMA, **limits), config, KNOWN["H100 80GB"]).verdict == verdict


def test_an_onnx_decoder_is_not_paged(tmp_path: Path) -> None:
    recipe = written(tmp_path, 'kind = "onnx"', limits=", slots = 256")
    assert isinstance(recipe, GenerateRecipe)
    config = CONFIGS["llama-3.1-8b"]
    found = fit_of(recipe, config, KNOWN["L4"])
    assert (found.verdict, found.requests) == ("does not fit", 45)
    assert fit_of(with_limits(recipe, slots=64), config, KNOWN["L4"]).verdict == "fits"
    with pytest.raises(
        FitError, match=r"of limits\.slots 256 of limits\.max_tokens 512; lower limits\.max_tokens to 90"
    ):
        require_fit(recipe, [gpu(23034)], folder=RECIPES / "llama-3.1-8b")


@pytest.mark.parametrize(
    ("engine", "task", "names"),
    [
        ('kind = "tensorrt_llm", gpus = ["B200", "A30"]', "generate", ("B200", "A30")),
        ('kind = "tensorrt_llm"', "generate", ("A10G",)),
        ('kind = "onnx"', "embed", ("A10G",)),
        ('kind = "tensorrt", compute_capabilities = ["8.0", "9.0", "7.5"]', "embed", ("A30", "H100 80GB")),
    ],
)
def test_a_recipe_that_names_no_gpu_is_for_the_smallest(
    tmp_path: Path, engine: str, task: str, names: tuple[str, ...]
) -> None:
    assert meant_for(written(tmp_path, engine, task)) == names


@pytest.mark.parametrize(
    ("name", "limits", "memory_mib", "capability", "words"),
    [
        (
            "llama-3.1-8b",
            {},
            23034,
            "8.9",
            [
                "engine llama-3.1-8b does not fit on NVIDIA X (24.2 GB): weights of 16.1 GB, activations of 1.7 GB",
                "leave 0.02 GB too few for the cache of one request of limits.max_tokens 32768;",
                "lower limits.max_tokens to 32639, or set engine.gpu.quantisation to w8a16, or set engine.gpu.tp to 2, "
                "or take another GPU (H100 80GB)",
            ],
        ),
        # 8 bits would still be too many; the weights alone are too many for any answer.
        ("llama-3.1-8b", {}, 15360, "8.9", ["leave 8.07 GB too few", "; set engine.gpu.quantisation to w4a16, or set"]),
        ("llama-3.1-8b", {}, 8192, "8.9", ["; set engine.gpu.tp to 8, or take another GPU (H100 80GB)"]),
        ("llama-3.1-8b", {}, 4096, "8.9", ["max_tokens 32768; take another GPU (H100 80GB)"]),
        ("llama-3.1-70b", {}, 20480, "8.9", ["leave 4.00 GB too few", "; set engine.gpu.tp to 8, or take another GPU"]),
        (
            "llama-3.1-70b",
            {},
            81920,
            "8.0",
            ["cannot run on NVIDIA X: its compute capability is 8.0, FP8 needs 8.9; take another GPU (H100 80GB)"],
        ),
        ("qwen3-8b-llmapi", {"max_tokens": 100_000_000}, 81559, "9.0", ["lower limits.max_tokens to 369794$"]),
    ],
)
def test_a_refusal_has_the_numbers_and_the_mend(
    name: str, limits: Any, memory_mib: int, capability: str, words: list[str]
) -> None:
    recipe = with_limits(recipe_of(name), **limits)
    with pytest.raises(FitError) as raised:
        require_fit(recipe, [gpu(memory_mib, capability)])
    for word in words:
        assert word.rstrip("$") in str(raised.value)
        assert not word.endswith("$") or str(raised.value).endswith(word[:-1])


def test_the_gpus_of_all_ranks_are_asked_and_no_other() -> None:
    recipe, large, small = recipe_of("llama-3.1-70b"), gpu(81559), gpu(16384)
    require_fit(recipe, [large])  # it may be built where it is not served
    require_fit(recipe, [large] * 4 + [small])
    with pytest.raises(FitError):
        require_fit(recipe, [large] * 3 + [small])


def test_an_encoder_is_refused_with_its_own_mend() -> None:
    recipe = read_recipe(RECIPES / "bge-large.toml")
    assert isinstance(recipe, EmbedRecipe)
    require_fit(recipe, [gpu(23034, "8.9")])
    with pytest.raises(FitError, match=r"too few; lower limits\.max_batch_size or engine\.gpu\.instances, or take ano"):
        require_fit(recipe, [gpu(23034, "8.9"), gpu(4096, "8.9")])
    with pytest.raises(FitError, match=r"cannot run on NVIDIA X: .* is 8\.0, plans are built for 8\.6, 8\.9, 9\.0;"):
        require_fit(recipe, [gpu(81920, "8.0")])


def test_a_config_is_taken_from_the_folder_that_is_given(tmp_path: Path) -> None:
    recipe = written(tmp_path, 'kind = "tensorrt_llm"')
    with pytest.raises(CheckpointError, match=r"org/name@0{40} is not on this machine; write what its config\.json"):
        require_fit(recipe, [gpu(81559)])
    require_fit(recipe, [gpu(81559)], folder=RECIPES / "llama-3.1-8b")
    with pytest.raises(FitError, match="engine mine does not fit on NVIDIA X"):
        require_fit(recipe, [gpu(8192)], folder=RECIPES / "llama-3.1-8b")


def test_a_gguf_file_has_no_config_yet() -> None:
    with pytest.raises(CheckpointError, match=r"is a GGUF file, which has no config\.json; `yard engines smollm2 "):
        config_of(read_recipe(RECIPES / "smollm2.toml"))
