"""What engines take of a GPU's memory: against parameter counts that are published, by hand, and against logs."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checkpoint import CheckpointError
from pipeline.gpu import known_gpu
from pipeline.gpu_engines import (
    BuildFlags,
    LlmApiEngine,
    OnnxDecoderEngine,
    OnnxEncoderEngine,
    TensorRtEngine,
    TensorRtLlmEngine,
)
from pipeline.gpu_fit import config_of, fit_of
from pipeline.gpu_memory import GIB, Memory, decoder_memory, encoder_memory, layer_memory, logits_memory
from pipeline.recipe import EmbedLimits, GenerateLimits, GenerateRecipe, read_recipe
from pipeline.tensorrt_llm.family import Model, read_model
from yard.checkout import RECIPES, ROOT

LIMITS = GenerateLimits(max_tokens=4096, slots=16)
# The numbers in each checkpoint, as its page on the Hub counts them.
NUMBERS = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b-llmapi": 8_190_735_360,
}
# Of those, in the linear layers of Llama's blocks: q, k, v and o; gate, up and down.
LINEAR_8B = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)
LINEAR_70B = 80 * (8192 * 10240 + 8192 * 8192 + 3 * 8192 * 28672)
FLOAT_8B, FLOAT_70B = NUMBERS["llama-3.1-8b"] - LINEAR_8B, NUMBERS["llama-3.1-70b"] - LINEAR_70B


def declared(name: str) -> tuple[Model, dict[str, Any]]:
    config = json.loads((RECIPES / name / "config.json").read_text())
    return read_model(name, config), config


def ranks(name: str, engine: Any, limits: GenerateLimits = LIMITS) -> list[Memory]:
    return decoder_memory(engine, limits, *declared(name))


def engine(**keys: Any) -> TensorRtLlmEngine:
    return TensorRtLlmEngine(kind="tensorrt_llm", **keys)


@pytest.mark.parametrize("name", NUMBERS)
def test_weights_in_16_bits_are_two_bytes_a_number(name: str) -> None:
    for each in (engine(), LlmApiEngine(kind="llmapi"), OnnxDecoderEngine(kind="onnx")):
        (memory,) = ranks(name, each)
        assert memory.weights == 2 * NUMBERS[name]


def test_a_tied_embedding_is_there_twice_as_the_engine_has_it() -> None:
    gpt2 = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
    config = gpt2 | {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    (memory,) = decoder_memory(engine(), LIMITS, read_model("gpt2", config), config)
    assert memory.weights == 2 * (124_439_808 + 50257 * 768)


@pytest.mark.parametrize(
    ("quantisation", "weights"),
    [
        # A byte each, and a scale of 16 bits a row.
        ("w8a16", LINEAR_8B + 2 * 32 * (6144 + 4096 + 2 * 14336 + 4096) + 2 * FLOAT_8B),
        ("w4a16", LINEAR_8B // 2 + 2 * 32 * (6144 + 4096 + 2 * 14336 + 4096) + 2 * FLOAT_8B),
        # A byte each, and two float32 scales for each of five weights a layer.
        ("fp8", LINEAR_8B + 32 * 5 * 8 + 2 * FLOAT_8B),
        # Half a byte each, a float32 scale for 128 of them, and a factor of 16 bits for each input.
        ("int4_awq", LINEAR_8B // 2 + 4 * LINEAR_8B // 128 + 2 * 32 * (4 * 4096 + 14336) + 2 * FLOAT_8B),
    ],
)
def test_quantised_weights_of_llama_8b(quantisation: Any, weights: int) -> None:
    (memory,) = ranks("llama-3.1-8b", engine(quantisation=quantisation))
    assert memory.weights == weights


def test_llama_70b_in_fp8() -> None:
    (memory,) = ranks("llama-3.1-70b", engine(quantisation="fp8", kv_cache="fp8"))
    # Beside the weights' scales each layer has one for its cache.
    assert memory.weights == LINEAR_70B + 80 * (5 * 8 + 4) + 2 * FLOAT_70B
    assert memory.cache_token == 2 * 80 * 8 * 128


@pytest.mark.parametrize(
    ("name", "keys", "token"),
    [
        ("llama-3.1-8b", {}, 131072),
        ("llama-3.1-8b", {"quantisation": "fp8", "kv_cache": "fp8"}, 131072 // 2),
        ("llama-3.1-8b", {"tp": 8}, 131072 // 8),
        ("llama-3.1-8b", {"tp": 16}, 131072 // 8),  # 8 heads for 16 ranks: each is kept twice
        ("llama-3.1-8b", {"pp": 2}, 131072 // 2),
        ("llama-3.1-8b", {"pp": 3}, 131072 * 11 // 32),  # 11, 11 and 10 layers
        ("llama-3.1-70b", {}, 327680),
        ("qwen2.5-7b", {"tp": 2}, 57344 // 2),
        ("qwen3-8b-llmapi", {}, 147456),
    ],
)
def test_a_token_in_the_cache(name: str, keys: Any, token: int) -> None:
    assert max(memory.cache_token for memory in ranks(name, engine(**keys))) == token


def test_the_dtype_of_an_llmapi_model_is_the_checkpoints_unless_it_is_said() -> None:
    model, config = declared("qwen3-8b-llmapi")
    for said, stored, item in (("auto", "float32", 4), ("auto", "float16", 2), ("bfloat16", "float32", 2)):
        llmapi = LlmApiEngine.model_validate({"kind": "llmapi", "dtype": said})
        (memory,) = decoder_memory(llmapi, LIMITS, model, config | {"torch_dtype": stored})
        assert memory.weights == item * NUMBERS["qwen3-8b-llmapi"]
        assert memory.cache_token == 147456 * item // 2


@pytest.mark.parametrize(
    ("each", "gib"),
    [
        (engine(), 1.5),
        (engine(tp=2), 2.5),
        (engine(pp=2), 2.5),
        (LlmApiEngine(kind="llmapi"), 3.0),
        (OnnxDecoderEngine(kind="onnx"), 1.5),
    ],
)
def test_overhead(each: Any, gib: float) -> None:
    assert {memory.overhead for memory in ranks("llama-3.1-8b", each)} == {gib * GIB}


def test_logits_of_every_token_are_counted_where_they_are_gathered() -> None:
    (plain,) = ranks("llama-3.1-8b", engine())
    (gathering,) = ranks("llama-3.1-8b", engine(build=BuildFlags(gather_context_logits=True)))
    assert gathering.activations - plain.activations == (8192 - LIMITS.slots) * 128256 * (2 + 4)


def sized(hidden: int, inner: int, vocabulary: int) -> Model:
    return replace(declared("llama-3.1-8b")[0], hidden_size=hidden, intermediate_size=inner, vocab_size=vocabulary)


@pytest.mark.parametrize(
    ("model", "tokens", "rows", "logged_mib"),
    [
        (sized(896, 4864, 151936), 8192, 2048, 773.51),  # Qwen2.5-Coder-0.5B int8
        (sized(4096, 11008, 32000), 8192, 4096, 928.77),  # Llama-2-7B fp8
        (sized(4096, 14336, 128256), 128000, 128000, 37812.51),  # Llama-3.1-8B with context logits
    ],
)
def test_execution_context_memory_is_estimated_a_little_above_what_was_logged(
    model: Model, tokens: int, rows: int, logged_mib: float
) -> None:
    estimate = layer_memory(model, 2, 1, tokens, rows) / 2**20
    assert logged_mib < estimate < 1.3 * logged_mib


@pytest.mark.parametrize(
    ("model", "slots", "logged"),
    [(sized(896, 4864, 151936), 2048, 2.66e9 + 5.76e9), (sized(4096, 11008, 32000), 4096, 1.14e9 + 4.35e9)],
)
def test_buffers_and_sampling_are_estimated_above_what_was_logged(model: Model, slots: int, logged: float) -> None:
    assert logged < logits_memory(model, slots, slots) < 2 * logged


def test_the_documented_example_is_what_the_code_says() -> None:
    recipe = read_recipe(RECIPES / "llama-3.1-8b.toml")
    assert isinstance(recipe, GenerateRecipe)
    found = fit_of(recipe, config_of(recipe), known_gpu("H100 80GB"))
    text = (ROOT / "docs" / "gpu-memory.md").read_text().split("## Worked example")[1].split("##")[0]
    rows = {part: (of, int(size)) for part, of, size in re.findall(r"^\| (\w+) \| (.*?) \| (\d+) \|$", text, re.M)}
    memory = found.memory
    assert {part: size for part, (_, size) in rows.items()} == {
        "total": found.total,
        "weights": memory.weights,
        "layer": 2 * (8192 * (4 * 4096 + 3 * 14336) + 128 * 128256),
        "logits": 4 * 128256 * (128 + 10 * 128),
        "overhead": memory.overhead,
        "left": found.total - memory.fixed,
        "token": memory.cache_token,
        "cache": found.cache,
    }
    assert rows["layer"][1] + rows["logits"][1] == memory.activations
    assert rows["cache"][0] == f"{found.tokens} tokens, {found.requests} requests of {recipe.limits.max_tokens}"


BERTS = {
    # Without the pooler, which no engine has: 335,141,888 and 22,713,216 with it.
    "bert-large": (
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
        334_092_288,
    ),
    "minilm": (
        {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12},
        22_565_376,
    ),
    "distilbert": ({"dim": 768, "hidden_dim": 3072, "n_layers": 6, "n_heads": 12}, 66_362_880),
}


@pytest.mark.parametrize("name", BERTS)
def test_an_encoders_weights_are_kept_once_by_tensorrt_and_by_each_session_of_onnx_runtime(name: str) -> None:
    sizes, numbers = BERTS[name]
    config = {"vocab_size": 30522, "max_position_embeddings": 512, **sizes}
    config |= {} if name == "distilbert" else {"type_vocab_size": 2}
    limits = EmbedLimits(max_tokens=128, max_batch_size=8)
    plan = TensorRtEngine(kind="tensorrt", compute_capabilities=("9.0",), instances=3)
    onnx = OnnxEncoderEngine(kind="onnx", precision="fp32", instances=3)
    assert encoder_memory(plan, limits, name, config).weights == 2 * numbers
    assert encoder_memory(onnx, limits, name, config).weights == 3 * 4 * numbers


def test_an_encoders_activations_by_hand() -> None:
    config = {"vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2} | BERTS["bert-large"][0]
    plan = TensorRtEngine(kind="tensorrt", compute_capabilities=("9.0",), instances=2)
    short, long = (EmbedLimits(max_tokens=tokens, max_batch_size=4) for tokens in (64, 512))
    # Up to 256 tokens the feed-forward is larger than the scores of 16 heads.
    assert encoder_memory(plan, short, "x", config).activations == 2 * 256 * (2 * (4 * 1024 + 2 * 4096) + 4 * 1024)
    assert encoder_memory(plan, long, "x", config).activations == 2 * 2048 * (2 * (4 * 1024 + 2 * 16 * 512) + 4 * 1024)
    with pytest.raises(CheckpointError, match=r"checkpoint x: config\.json lacks the key 'vocab_size'"):
        encoder_memory(plan, short, "x", {key: value for key, value in config.items() if key != "vocab_size"})


@st.composite
def models(draw: st.DrawFn) -> Model:
    """A decoder that tp 1, 2 and 4 divide, with 1, 2, 4 or 8 key-value heads."""
    kv_heads, times = draw(st.sampled_from([1, 2, 4, 8])), draw(st.integers(1, 3))
    heads, size = 8 * times, draw(st.sampled_from([8, 16, 64]))
    return replace(
        declared(draw(st.sampled_from(sorted(NUMBERS))))[0],
        vocab_size=draw(st.integers(10, 5000)),
        hidden_size=draw(st.integers(1, 8)) * 128,
        intermediate_size=draw(st.integers(1, 8)) * 512,
        layers=draw(st.integers(4, 9)),
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        tied=draw(st.booleans()),
    )


@settings(max_examples=15, deadline=None)
@given(models(), st.sampled_from([None, "fp8", "int8_sq"]))
def test_more_ranks_take_no_more_each_and_no_less_together(model: Model, quantisation: Any) -> None:
    one, two, four = (decoder_memory(engine(tp=tp, quantisation=quantisation), LIMITS, model, {}) for tp in (1, 2, 4))
    for fewer, more in ((one, two), (two, four)):
        assert len({memory.cache_token for memory in more}) == 1
        for key in ("weights", "activations", "cache_token"):
            largest = max(getattr(memory, key) for memory in more)
            assert largest <= max(getattr(memory, key) for memory in fewer)
            # Norms, scales and repeated heads are kept by every rank.
            assert sum(getattr(memory, key) for memory in more) >= sum(getattr(memory, key) for memory in fewer)


@settings(max_examples=15, deadline=None)
@given(models(), st.integers(2, 4))
def test_stages_share_weights_and_cache_exactly(model: Model, pp: int) -> None:
    (whole,) = decoder_memory(engine(), LIMITS, model, {})
    stages = decoder_memory(engine(pp=pp), LIMITS, model, {})
    assert sum(stage.weights for stage in stages) == whole.weights
    assert sum(stage.cache_token for stage in stages) == whole.cache_token
