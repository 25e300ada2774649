from pathlib import Path

import pytest

from ensembles.declaration import DeclarationError
from pipeline.recipe import read_recipe, read_recipes

DIGEST = "sha256:" + "0" * 64
GOOD = f"""
task = "embed"
checkpoint.package = "some-weights"
checkpoint.digest = "{DIGEST}"
limits.max_tokens = 256
"""


def write(folder: Path, text: str, name: str = "minilm.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_good_recipe_has_the_defaults(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, GOOD))
    assert recipe.name == "minilm"
    assert recipe.engine.cpu.precision == "fp32"
    assert recipe.limits.max_batch_size == 64
    assert recipe.quality.fp32.min_cosine == 0.9999


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("task", "tsak", "unknown key 'tsak'"),
        ("task", "tsak", "did you mean 'task'?"),
        ("max_tokens = 256", "max_tokenz = 256", "unknown key 'limits.max_tokenz'"),
        ("max_tokens = 256", "max_tokenz = 256", "did you mean 'max_tokens'?"),
        ("max_tokens = 256", "max_tokens = 256\nengine.cpu.precison = 'int8'", "did you mean 'precision'?"),
        ("max_tokens = 256", "max_tokens = 256\nengine.gpuu.precision = 'int8'", "unknown key 'engine.gpuu'"),
        ("max_tokens = 256", "max_tokens = '256'", "limits.max_tokens = '256': should be a valid integer"),
        ("max_tokens = 256", "max_tokens = 0", "limits.max_tokens = 0: should be greater than or equal to 8"),
        ('task = "embed"', 'task = "embde"', "task = 'embde' is not one of embed, generate; did you mean 'embed'?"),
        ('task = "embed"', "", "key 'task' is missing"),
        ("limits.max_tokens = 256", "", "key 'limits' is missing"),
        (DIGEST, "sha256:12", "checkpoint.digest = 'sha256:12'"),
        ('checkpoint.package = "some-weights"', "", "give exactly one of package, path and hub, not none"),
        ("limits.", "checkpoint.path = 'x'\nlimits.", "not package and path"),
        ('checkpoint.package = "some-weights"', "checkpoint.hub = 'a/b'", "hub and revision go together"),
        ("max_tokens = 256", "max_tokens = ", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    file = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(DeclarationError) as caught:
        read_recipe(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_broken_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError) as caught:
        read_recipe(write(tmp_path, GOOD.replace("task", "tsak").replace(DIGEST, "sha256:12")))
    assert len(str(caught.value).splitlines()) == 3  # the missing key, the unknown one, the wrong value


def test_a_missing_recipe_names_the_near_miss(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(DeclarationError, match="did you mean 'minilm'"):
        read_recipes(tmp_path, "cpu", "minilmm")
    with pytest.raises(DeclarationError, match=r"did you mean 'minilm\.toml'"):
        read_recipe(tmp_path / "minilmm.toml")


def test_a_folder_without_recipes_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="yard init"):
        read_recipes(tmp_path, "cpu")


def test_a_recipe_file_must_be_named_like_a_model(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="'My Model' is not a model name"):
        read_recipe(write(tmp_path, GOOD, "My Model.toml"))
