"""Decoders built from real files: the real GGUF, and tiny random checkpoints of each family."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import write_decoder

from pipeline import onnx_decoder
from pipeline.assemble import assemble, configs, drift
from pipeline.checkpoint import CheckpointError
from pipeline.decoder_comparison import compare_decoders, plot
from pipeline.draft import draft
from pipeline.engines import Engines
from pipeline.fidelity import load_reference
from pipeline.fingerprint import FileDigests
from pipeline.greedy import GreedyDecoder
from pipeline.onnx_decoder import BuilderError, build, load_tokenizer, require_graph, save_facts
from pipeline.plan import Plan
from pipeline.quality import QualityError
from pipeline.recipe import GenerateRecipe, read_recipe
from pipeline.store import Artefact

pytestmark = pytest.mark.build

# Shapes that exercise each family's own: no bias, biases, normed queries, windows, soft caps, scaled embeddings.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 512},
    "qwen2": {},
    "qwen3": {},
    "phi3": {"sliding_window": None, "original_max_position_embeddings": 512},
    "gemma": {"hidden_activation": "gelu_pytorch_tanh"},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 16},
}


def quiet(stage: str) -> None:
    pass


def recipe_for(
    checkpoint: Path, folder: Path, edit: Callable[[str], str] = lambda text: text.replace('"int8"', '"fp32"', 1)
) -> GenerateRecipe:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.toml").write_text(edit(draft(str(checkpoint), folder, FileDigests(folder / "digests.json"))))
    recipe = read_recipe(folder / "tiny.toml")
    assert isinstance(recipe, GenerateRecipe)
    return recipe


def built(checkpoint: Path, folder: Path) -> tuple[Plan, Artefact]:
    engines = Engines(folder / "artifacts")
    plan = engines.plan(recipe_for(checkpoint, folder / "recipes"))
    return plan, engines.build(plan, quiet)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Artefact]:
    folder = tmp_path_factory.mktemp("llama")
    return built(write_decoder(folder / "checkpoint", "llama", shard="200KB"), folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_says_what_its_checkpoint_says(tmp_path: Path, family: str) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", family, **FAMILIES[family])
    _, artefact = built(checkpoint, tmp_path)
    fidelity = artefact.facts["fidelity"]
    assert fidelity["max_logit_difference"] < 1e-3
    assert fidelity["greedy_agreement"] == 1
    assert abs(fidelity["perplexity"] / fidelity["checkpoint_perplexity"] - 1) < 1e-4
    require_same_answers(checkpoint, artefact.folder)


def require_same_answers(checkpoint: Path, engine: Path) -> None:
    """The plain loop and transformers' generate give the same tokens."""
    import torch

    reference = load_reference(checkpoint)
    ids = load_tokenizer(checkpoint)("the rain in the north").input_ids
    wanted = reference.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    end_ids = json.loads((engine / "decoder.json").read_text())["end_ids"]
    if wanted[-1] in end_ids:
        wanted.pop()
    assert GreedyDecoder(engine, 1, 64).generate_greedy(ids, 24, end_ids) == wanted


def test_a_sharded_checkpoint_is_built_and_holds_all_that_serving_reads(llama: tuple[Plan, Artefact]) -> None:
    plan, artefact = llama
    assert len(list(plan.folder.glob("*.safetensors"))) > 1
    facts = json.loads((artefact.folder / "decoder.json").read_text())
    assert facts == {
        "end_ids": [1],
        "pad_id": 2,
        "bos_id": 0,
        "vocab_size": facts["vocab_size"],
        "context": 512,
        "head_size": 16,
    }
    chat = json.loads((artefact.folder / "chat.json").read_text())
    assert "add_generation_prompt" in chat["template"]
    assert (chat["bos_token"], chat["eos_token"]) == ("<bos>", "<eos>")
    golden = json.loads((artefact.folder / "golden.json").read_text())
    assert golden["messages"][0]["role"] == "user"
    assert 4 <= golden["max_tokens"] <= 16


def test_rows_of_one_batch_do_not_see_each_other(llama: tuple[Plan, Artefact]) -> None:
    import numpy as np

    _, artefact = llama
    texts = [[5, 9, 7, 30, 11], [8, 8, 3]]
    together = [logits.copy() for logits in GreedyDecoder(artefact.folder, 2, 8).teacher_forced(texts)]
    for row, text in enumerate(texts):
        alone = GreedyDecoder(artefact.folder, 1, 8).feed(np.array([text]), 0)[0]
        assert abs(together[len(text) - 1][row] - alone).max() < 1e-4


def test_every_way_to_name_an_end_is_an_end(tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", "llama")
    file = checkpoint / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": [1, 40]}))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "eos_token_id": 41}))
    assert save_facts(checkpoint, 512, tmp_path)["end_ids"] == [1, 40, 41]


def test_a_checkpoint_without_a_chat_template_answers_a_prompt(tmp_path: Path) -> None:
    _, artefact = built(write_decoder(tmp_path / "checkpoint", "qwen2", template=None), tmp_path)
    assert json.loads((artefact.folder / "chat.json").read_text())["template"] is None
    assert "prompt" in json.loads((artefact.folder / "golden.json").read_text())


def test_a_graph_of_another_form_is_refused(llama: tuple[Plan, Artefact]) -> None:
    _, artefact = llama
    with pytest.raises(BuilderError, match=r"cannot be served: its output logits is .*, not .*\[-1, 1, 7\]"):
        require_graph(artefact.folder / "model.onnx", 7)


def test_an_encoder_is_no_decoder(minilm: tuple[Plan, Artefact]) -> None:
    with pytest.raises(BuilderError, match="no inputs past_key_values"):
        require_graph(minilm[1].folder / "model.onnx", 384)


def test_a_builder_that_fails_says_its_last_lines(tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", "llama")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(BuilderError, match=r"ended with exit code 1:\n(.*\n)*.*[Ee]rror"):
        build(checkpoint, "fp32", tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint"]


def test_a_damaged_shard_stops_the_build(tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", "llama", shard="200KB")
    recipe = recipe_for(checkpoint, tmp_path / "recipes")
    shard = min(checkpoint.glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="was changed or damaged"):
        Engines(tmp_path / "artifacts").plan(recipe)


def test_the_gate_sees_a_wrong_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine built from other weights than the reference's is caught, and not published."""
    checkpoint = write_decoder(tmp_path / "checkpoint", "llama")
    other = write_decoder(tmp_path / "other", "llama", rms_norm_eps=0.5)
    real = onnx_decoder.build
    monkeypatch.setattr(onnx_decoder, "build", lambda folder, *how, **where: real(other, *how, **where))
    engines = Engines(tmp_path / "artifacts")
    plan = engines.plan(recipe_for(checkpoint, tmp_path / "recipes"))
    with pytest.raises(QualityError, match=r"tiny fp32 misses its gate: .*max logit difference .* is above the limit"):
        engines.build(plan, quiet)
    assert engines.store.find(plan.step) is None
    assert list((tmp_path / "artifacts").glob("tmp/*")) == []


def write_gguf(file: Path, family: str) -> None:
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(file, family)
    writer.add_context_length(64)
    writer.add_tensor("token_embd.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kept", [0, 4, 24, 1000])
def test_a_file_that_is_not_gguf_or_cut_off_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, "llama")
    file.write_bytes(file.read_bytes()[:kept] or b"no such format")
    with pytest.raises(CheckpointError, match=r"is damaged or not GGUF \(\d+ bytes\)"):
        draft(str(file), tmp_path, FileDigests(tmp_path / "digests.json"))


def test_a_gguf_file_of_another_family_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "falcon")
    with pytest.raises(CheckpointError, match="is of model_type 'falcon'; the generate task carries llama"):
        draft(str(tmp_path / "model.gguf"), tmp_path, FileDigests(tmp_path / "digests.json"))


def test_the_repository_holds_what_each_step_reads(tmp_path: Path, llama: tuple[Plan, Artefact]) -> None:
    repository = tmp_path / "models" / "cpu"
    assert assemble(repository, [llama], keep_others=False) == [
        "tiny",
        "tiny_decoder",
        "tiny_detokenizer",
        "tiny_tokenizer",
    ]
    assert drift(repository, configs([llama[0].recipe], "cpu")) == []
    files = {str(file.relative_to(repository)) for file in repository.rglob("1/*")}
    assert files == {
        "tiny/1/golden.json",
        "tiny_decoder/1/decoder.json",
        "tiny_decoder/1/model.onnx",
        "tiny_decoder/1/model.onnx.data",
        "tiny_decoder/1/tokenizer.json",
        "tiny_detokenizer/1/tokenizer.json",
        "tiny_tokenizer/1/chat.json",
        "tiny_tokenizer/1/tokenizer.json",
    }


def test_the_real_engine_says_what_its_checkpoint_says(smollm2: tuple[Plan, Artefact]) -> None:
    _, artefact = smollm2
    fidelity = artefact.facts["fidelity"]
    assert abs(fidelity["perplexity"] / fidelity["checkpoint_perplexity"] - 1) < 0.02
    assert fidelity["greedy_agreement"] > 0.94
    assert json.loads((artefact.folder / "golden.json").read_text())["max_tokens"] == 16


def test_compare_measures_every_precision_and_draws_it(tmp_path: Path) -> None:
    recipe = recipe_for(write_decoder(tmp_path / "checkpoint", "llama"), tmp_path / "recipes")
    engines = Engines(tmp_path / "artifacts")
    fp32, int8, int4 = compare_decoders(engines, recipe, quiet)
    assert (fp32.precision, int8.precision, int4.precision) == ("fp32", "int8", "int4")
    assert fp32.fidelity.max_logit_difference < int8.fidelity.max_logit_difference < int4.fidelity.max_logit_difference
    assert min(row.tokens_per_second for row in (fp32, int8, int4)) > 0
    steps = [engines.plan(recipe, precision=name).step for name in ("fp32", "int8", "int4")]
    assert [engines.store.find(step) for step in steps] == [None] * 3
    plot("tiny", [fp32, int8, int4], tmp_path / "tiny.png")
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")
