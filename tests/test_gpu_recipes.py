"""The shipped recipes for GPUs: each fits on every GPU that it names, and has an SLA to keep there."""

import re
from dataclasses import replace
from typing import Any

import pytest

from loadtests.traffic import scenario
from loadtests.traffic.request import EmbedRequest, GenerateRequest
from pipeline.decoder import read_decoder
from pipeline.encoder import read_encoder
from pipeline.generate_plan import require_context
from pipeline.gpu import known_gpu
from pipeline.gpu_engines import LlmApiEngine, TensorRtEngine, TensorRtLlmEngine
from pipeline.gpu_fit import Fit, config_of, fit_of, meant_for
from pipeline.recipe import COMMIT, EmbedRecipe, GenerateRecipe, Recipe, read_recipe
from yard.checkout import RECIPES

# Those whose checkpoint is on no machine of ours: its small files are committed beside the recipe.
NAMES = sorted(file.stem for file in RECIPES.glob("*.toml") if file.with_suffix("").is_dir())
SMALL = [name for name in NAMES if name.endswith("-l4")]
# Words of English become at most so many tokens each in these vocabularies.
TOKENS_A_WORD = 1.4


def recipe_of(name: str) -> Recipe:
    return read_recipe(RECIPES / f"{name}.toml")


def decoder_of(name: str) -> GenerateRecipe:
    recipe = recipe_of(name)
    assert isinstance(recipe, GenerateRecipe)
    return recipe


def lies(name: str, gpu: str, limits: Any = None, **changes: Any) -> Fit:
    """How the recipe `name` lies in `gpu`, with keys of its engine, or its limits, changed."""
    recipe = decoder_of(name)
    engine = recipe.engine.gpu
    assert engine
    engines = recipe.engine.model_copy(update={"gpu": engine.model_copy(update=changes)})
    return fit_of(replace(recipe, engine=engines, limits=limits or recipe.limits), config_of(recipe), known_gpu(gpu))


def test_every_deployment_is_there() -> None:
    decoders = {"llama-3.1-8b", "llama-3.1-8b-l4", "qwen2.5-7b", "qwen2.5-7b-l4", "qwen3-8b", "qwen3-8b-l4"}
    assert set(NAMES) == {*decoders, "qwen3-8b-llmapi", "llama-3.1-70b", "bge-large"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_short_pinned_and_right_for_its_checkpoint(name: str) -> None:
    recipe = recipe_of(name)
    assert len(recipe.file.read_text().splitlines()) <= 25
    assert re.fullmatch(COMMIT, recipe.checkpoint.revision or "")
    # A token is four letters of English: no text is refused for its bytes that has few enough tokens.
    assert recipe.limits.max_text_bytes >= 4 * recipe.limits.max_tokens
    folder = recipe.file.with_suffix("")
    if isinstance(recipe, GenerateRecipe):
        require_context(recipe, read_decoder(folder))
    else:
        encoder = read_encoder(folder)
        assert (encoder.hidden_size, encoder.pooling, encoder.normalize, encoder.max_tokens) == (1024, "cls", True, 512)
        assert recipe.limits.max_tokens <= encoder.max_tokens


@pytest.mark.parametrize(("name", "gpu"), [(name, gpu) for name in NAMES for gpu in meant_for(recipe_of(name))])
def test_a_recipe_fits_where_it_is_meant_for(name: str, gpu: str) -> None:
    recipe = recipe_of(name)
    assert fit_of(recipe, config_of(recipe), known_gpu(gpu)).is_good


def test_what_each_is_meant_for() -> None:
    for name in NAMES:
        engine = recipe_of(name).engine.gpu
        if isinstance(engine, TensorRtEngine):
            assert meant_for(recipe_of(name)) == ("A10G", "L4", "H100 80GB")
        else:
            assert isinstance(engine, TensorRtLlmEngine | LlmApiEngine)
            assert engine.gpus == (("L4", "A10") if name in SMALL else ("H100 80GB", "H200"))


@pytest.mark.parametrize("name", SMALL)
def test_a_small_gpu_serves_the_checkpoint_of_the_large_one_with_limits_of_its_own(name: str) -> None:
    large = name.removesuffix("-l4")
    assert recipe_of(name).checkpoint == recipe_of(large).checkpoint
    assert config_of(recipe_of(name)) == config_of(recipe_of(large))
    for gpu in ("L4", "A10"):
        at_large = lies(name, gpu, decoder_of(large).limits)
        assert at_large.verdict != "fits"
        # Of prompts as long as an H100 takes not even half its own slots have room.
        assert at_large.requests < decoder_of(name).limits.slots / 2 <= lies(name, gpu).requests


@pytest.mark.parametrize(
    ("name", "gpu", "keys", "verdict"),
    [
        ("llama-3.1-8b", "L4", {}, "does not fit"),
        ("llama-3.1-8b", "A10", {"quantisation": "w8a16"}, "fits with paging"),
        ("qwen3-8b", "L4", {}, "does not fit"),
        ("llama-3.1-70b", "H100 80GB", {"tp": 1}, "does not fit"),
        ("llama-3.1-70b", "H100 80GB", {"tp": 2}, "fits with paging"),
        ("llama-3.1-70b", "H100 80GB", {"tp": 1, "quantisation": None, "kv_cache": None}, "does not fit"),
        ("llama-3.1-70b", "H100 80GB", {"tp": 2, "quantisation": None, "kv_cache": None}, "does not fit"),
        ("llama-3.1-70b", "H100 80GB", {"quantisation": None, "kv_cache": None}, "fits with paging"),
        ("llama-3.1-70b", "L40S", {"tp": 2}, "fits with paging"),
        ("llama-3.1-70b", "L4", {}, "does not fit"),
        ("llama-3.1-70b", "A100 80GB", {}, "cannot run"),
    ],
)
def test_what_a_deployment_would_be_elsewhere(name: str, gpu: str, keys: Any, verdict: str) -> None:
    assert lies(name, gpu, **keys).verdict == verdict


# The LLM API counts no tokens and takes no least number of them, so that a load test cannot judge it yet.
@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("-llmapi")])
def test_a_deployment_has_an_sla_of_its_own_that_its_limits_allow(name: str) -> None:
    recipe, loaded = recipe_of(name), scenario.load(scenario.locate(name))
    (share,) = loaded.shares
    request, limits = share.request, set(loaded.sla.latency_limits_ms())
    assert request.model == name
    if isinstance(recipe, EmbedRecipe):
        assert isinstance(request, EmbedRequest)
        assert limits == {"p95_ms", "p99_ms"}
        assert request.words.max
        assert request.words.max * TOKENS_A_WORD <= recipe.limits.max_tokens
    else:
        assert isinstance(request, GenerateRequest)
        assert limits == {"p95_ms", "ttft_p95_ms", "itl_p95_ms"}
        assert request.prompt.max
        assert request.output_tokens
        assert request.prompt.max * TOKENS_A_WORD + request.output_tokens.max <= recipe.limits.max_tokens
