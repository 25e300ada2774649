"""The lint: each committed repository breaks the rule it is named after and no other; variants stand inline."""

import subprocess
import sys
from pathlib import Path

import pytest

from ensembles import pbtxt
from ensembles.embed import EmbedSpec, embed_ensemble
from ensembles.errors import YardError
from ensembles.lint import RULES, lint

CORPUS = sorted((Path(__file__).parent / "repositories").iterdir())
X = 'input { name: "x" data_type: TYPE_FP32 dims: [ 3 ] }'
Y = 'output { name: "y" data_type: TYPE_FP32 dims: [ 3 ] }'
XY = f"{X}\n{Y}\n"
PYTHON = f'backend: "python"\n{XY}'
TO_X, TO_Y = 'input_map { key: "x" value: "x" }', 'output_map { key: "y" value: "y" }'
STEP = f'step {{ model_name: "m" model_version: -1 {TO_X} {TO_Y} }}'
ITSELF = STEP.replace('"m"', '"e"')
OTHER = f'step {{ model_name: "n" model_version: -1 {TO_X} output_map {{ key: "y" value: "z" }} }}'
ENSEMBLE = f'platform: "ensemble"\n{XY}'
WARM = 'model_warmup { name: "w" batch_size: 1 inputs { key: "x" value { %s } } }'


def rules(repository: Path) -> list[str]:
    return [finding.rule for finding in lint(repository)]


def write(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize("folder", CORPUS, ids=lambda folder: folder.name)
def test_a_repository_breaks_exactly_the_rule_in_its_name(folder: Path) -> None:
    named = folder.name.partition("-")[0]
    assert set(rules(folder)) == (set() if named == "valid" else {named})


def test_every_rule_has_a_repository() -> None:
    assert {folder.name.partition("-")[0] for folder in CORPUS} == RULES.keys() | {"valid"}


def test_a_finding_is_one_line_of_file_model_rule_fact_and_fix() -> None:
    (finding,) = lint(CORPUS[0].parent / "TY302-unknown-model")
    assert str(finding) == (
        "ensemble/config.pbtxt: ensemble: TY302: step 0 ('ecko') names a model that is not in the repository; "
        "add the model, or correct the name; did you mean 'echo'?"
    )
    assert (finding.kind, finding.severity) == ("load", "error")
    lines = [str(finding) for folder in CORPUS for finding in lint(folder)]
    assert all("\n" not in line for line in lines)


def test_a_missing_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(YardError, match=r"nowhere is not a folder"):
        lint(tmp_path / "nowhere")


def test_our_own_ensemble_is_clean(tmp_path: Path) -> None:
    ensemble = embed_ensemble(EmbedSpec("e", ("input_ids", "attention_mask"), 8, "mean", True, 64, 4096, 32, 128))
    write(tmp_path, {f"{part.name}/config.pbtxt": pbtxt.dump(part) for part in (ensemble, *ensemble.models)})
    write(tmp_path, {f"{part.name}/1/model.onnx": "" for part in (ensemble, *ensemble.models)})
    assert lint(tmp_path) == []


def test_the_lint_imports_nothing_heavy() -> None:
    code = "import sys, ensembles.lint; print(*{'torch', 'onnxruntime', 'transformers'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == ""


MODELS = {
    # What a version folder must hold, backend by backend.
    "onnx file": ('backend: "onnxruntime"', {"1/model.onnx": ""}, []),
    "onnx folder": ('backend: "onnxruntime"', {"1/model.onnx/model.onnx": "", "1/model.onnx/model.data": ""}, []),
    "onnx folder without its model": ('backend: "onnxruntime"', {"1/model.onnx/other.onnx": ""}, ["TY105"]),
    "onnx missing": ('backend: "onnxruntime"', {"1/model.plan": ""}, ["TY105"]),
    "plan missing": ('platform: "tensorrt_plan"', {"1/model.onnx": ""}, ["TY105"]),
    "torch by Python": ('backend: "pytorch" runtime: "model.py"', {"1/model.py": ""}, []),
    "default file name": ('backend: "tensorrt" default_model_filename: "a.plan"', {"1/a.plan": ""}, []),
    "one file a GPU": ('backend: "tensorrt" cc_model_filenames { key: "9.0" value: "h" }', {"1/h": ""}, []),
    "python ignores files a GPU": (
        'backend: "python" cc_model_filenames { key: "9.0" value: "h.py" }',
        {"1/h.py": ""},
        ["TY105"],
    ),
    "files by an agent": (
        'backend: "python" model_repository_agents { agents { name: "fetch" } }',
        {"1/.gitkeep": ""},
        [],
    ),
    "python-based backend": ('backend: "tokenizer"', {"1/tokenizer.json": ""}, []),
    "engine elsewhere": ('backend: "tensorrtllm"', {"1/.gitkeep": ""}, []),
    # Which backend.
    "guessed from the file": ("", {"1/model.py": ""}, []),
    "unknown platform": ('platform: "onnxruntime"', {"1/model.onnx": ""}, ["TY103"]),
    "python with a platform": ('backend: "python" platform: "anything"', {"1/model.py": ""}, []),
    # Which version.
    "leading zero": ('backend: "python"', {"01/model.py": ""}, ["TY104"]),
    "not a number": ('backend: "python"', {"v1/model.py": ""}, ["TY104"]),
    "version 0": ('backend: "python"', {"0/model.py": ""}, []),
    "other folders": ('backend: "python"', {"1/model.py": "", "warmup/x": "", "docs/x": ""}, []),
    "backup beside its version": ('backend: "python"', {"1/model.py": "", "1.bak/old.py": ""}, []),
    "latest none": ('backend: "python" version_policy { latest { } }', {"1/model.py": ""}, ["TY104"]),
    "none of the specific": (
        'backend: "python" version_policy { specific { versions: [ 2 ] } }',
        {"1/model.py": ""},
        ["TY104"],
    ),
    "an older one is not loaded": ('backend: "python"', {"1/.gitkeep": "", "2/model.py": ""}, []),
    "all are loaded": (
        'backend: "python" version_policy { all { } }',
        {"1/.gitkeep": "", "2/model.py": ""},
        ["TY105"],
    ),
    # Placeholders.
    "braces": (
        'backend: "python" parameters { key: "p" value { string_value: "{{ dir }}" } }',
        {"1/model.py": ""},
        ["TY107"],
    ),
    "a chat template": (
        'backend: "python" parameters { key: "p" value { string_value: "{{ bos }}{{ text }}" } }',
        {"1/model.py": ""},
        [],
    ),
    "Triton's own variable": (
        'backend: "python" parameters { key: "p" value { string_value: "$$TRITON_MODEL_DIRECTORY/e" } }',
        {"1/model.py": ""},
        [],
    ),
}


@pytest.mark.parametrize(("config", "files", "expected"), MODELS.values(), ids=MODELS)
def test_model_folders(tmp_path: Path, config: str, files: dict[str, str], expected: list[str]) -> None:
    paths = {f"m/{path}": text for path, text in files.items()}
    assert rules(write(tmp_path, {"m/config.pbtxt": f"{config}\n{XY}", **paths})) == expected


SIGNATURES = {
    "variable dimension": ('input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }', []),
    "below -1": ('input { name: "x" data_type: TYPE_FP32 dims: [ -2 ] }', ["TY202"]),
    "no dims": ('output { name: "y" data_type: TYPE_FP32 }', ["TY201"]),
    "no name": ("input { data_type: TYPE_FP32 dims: [ 3 ] }", ["TY201"]),
    "output twice does no harm": (f"{X}\n{Y}\n{Y}", []),
    "input and output of one name": (f"{X}\n{X.replace('input', 'output')}", []),
    "reshape around -1": (
        'input { name: "x" data_type: TYPE_FP32 dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 1, 6 ] } }',
        [],
    ),
    "reshape across -1": (
        'input { name: "x" data_type: TYPE_FP32 dims: [ 2, -1 ] reshape { shape: [ -1, 2 ] } }',
        ["TY203"],
    ),
    "reshape to 0": ('input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ 0 ] } }', ["TY202"]),
    "scalar in a batch": (
        'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { } }',
        [],
    ),
    "scalar alone": ('input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { } }', ["TY203"]),
    "sequence prefers too much": (
        "max_batch_size: 4 sequence_batching { oldest { preferred_batch_size: [ 8 ] } }",
        ["TY205"],
    ),
    "dynamic batching bounds a queue": ("dynamic_batching { default_queue_policy { max_queue_size: 8 } }", []),
    "sequence cache": ("sequence_batching { } response_cache { enable: true }", ["TY207"]),
    "warm-up": (X + WARM % "data_type: TYPE_FP32 dims: [ 3 ] zero_data: true", []),
    "warm-up type": (X + WARM % "data_type: TYPE_INT32 dims: [ 3 ] zero_data: true", ["TY208"]),
    "warm-up dims": (X + WARM % "data_type: TYPE_FP32 dims: [ 1, 3 ] zero_data: true", ["TY208"]),
    "warm-up open": (X + WARM % "data_type: TYPE_FP32 dims: [ -1 ] zero_data: true", ["TY208"]),
    "warm-up without data": (X + WARM % "data_type: TYPE_FP32 dims: [ 3 ]", ["TY208"]),
    "warm-up file": (X + WARM % 'data_type: TYPE_FP32 dims: [ 3 ] input_data_file: "f"', ["TY208"]),
    "warm-up batch": (
        f'max_batch_size: 4 {X} model_warmup {{ name: "w" batch_size: 8 inputs {{ key: "x" value '
        "{ data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } } }",
        ["TY209"],
    ),
    "warm-up skipped": (f'{X} model_warmup {{ name: "w" }}', []),
}


@pytest.mark.parametrize(("config", "expected"), SIGNATURES.values(), ids=SIGNATURES)
def test_signatures(tmp_path: Path, config: str, expected: list[str]) -> None:
    assert rules(write(tmp_path, {"m/config.pbtxt": f'backend: "python"\n{config}', "m/1/model.py": ""})) == expected


TWO = f'backend: "python"\n{XY}input {{ name: "z" data_type: TYPE_FP32 dims: [ 3 ] optional: true }}\n'
DECOUPLED = f"{PYTHON}model_transaction_policy {{ decoupled: true }}\n"
ENSEMBLES = {
    "optional input left out": (ENSEMBLE + f"ensemble_scheduling {{ {STEP} }}", {"m": TWO}, []),
    "no output map": (
        ENSEMBLE + f'ensemble_scheduling {{ {STEP} step {{ model_name: "m" model_version: -1 {TO_X} }} }}',
        {"m": PYTHON},
        ["TY301"],
    ),
    "version that is not there": (
        ENSEMBLE + f"ensemble_scheduling {{ {STEP.replace('-1', '3')} }}",
        {"m": PYTHON},
        ["TY303"],
    ),
    "input is output": (
        ENSEMBLE + X.replace("input", "output") + f" ensemble_scheduling {{ {STEP} }}",
        {"m": PYTHON},
        [],
    ),
    "a step with an unreadable config": (
        ENSEMBLE + f"ensemble_scheduling {{ {STEP} }}",
        {"m": "max_batch_size: ${n}"},
        ["TY101"],
    ),
    "backend on an ensemble": (
        f'backend: "python" {ENSEMBLE} ensemble_scheduling {{ {STEP} }}',
        {"m": PYTHON},
        ["TY103"],
    ),
    "steps on a model": (f"{PYTHON} ensemble_scheduling {{ {STEP} }}", {"m": PYTHON}, ["TY320"]),
    "itself": (ENSEMBLE + f"ensemble_scheduling {{ {ITSELF} }}", {}, ["TY318"]),
    "batching model in a plain ensemble": (
        ENSEMBLE + f"ensemble_scheduling {{ {STEP} }}",
        {"m": f"max_batch_size: 4 {PYTHON}"},
        [],
    ),
    "batch dimension written out": (
        f"max_batch_size: 4 {ENSEMBLE} ensemble_scheduling {{ {STEP} }}",
        {"m": PYTHON.replace("[ 3 ]", "[ -1, 3 ]")},
        [],
    ),
    "batches of one": (
        f"max_batch_size: 1 {ENSEMBLE} ensemble_scheduling {{ {STEP} }}",
        {"m": PYTHON},
        [],
    ),
    "decoupled": (ENSEMBLE + f"ensemble_scheduling {{ {STEP} }}", {"m": DECOUPLED}, []),
    "outputs of both sides": (
        ENSEMBLE
        + 'output { name: "z" data_type: TYPE_FP32 dims: [ 3 ] }'
        + f"ensemble_scheduling {{ {STEP} {OTHER} }}",
        {"m": DECOUPLED, "n": PYTHON},
        ["TY319"],
    ),
}


@pytest.mark.parametrize(("config", "models", "expected"), ENSEMBLES.values(), ids=ENSEMBLES)
def test_ensembles(tmp_path: Path, config: str, models: dict[str, str], expected: list[str]) -> None:
    files = {f"{name}/config.pbtxt": text for name, text in models.items()}
    files |= {f"{name}/1/model.py": "" for name in models}
    write(tmp_path, {"e/config.pbtxt": config, "e/1/.gitkeep": "", "e/1/model.py": "", **files})
    assert rules(tmp_path) == expected
