"""The arrows of import, and no others."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from yard.checkout import BACKENDS, ROOT

# floor -> what of ours it may import; loadtests takes its errors and its declarations from the lowest floor.
ARROWS = {
    "ensembles": {"ensembles"},
    "pipeline": {"pipeline", "ensembles"},
    "serving": {"serving", "pipeline", "ensembles", "tritonyard"},
    "tritonyard": {"tritonyard"},
    "loadtests": {"loadtests", "tritonyard", "ensembles"},
    "yard": {"yard", "serving", "loadtests", "pipeline", "ensembles", "tritonyard"},
}
FOLDERS = {"pipeline": ROOT / "build" / "pipeline", "tritonyard": ROOT / "clients" / "tritonyard"}
# What `yard engines` with nothing to do, and every decision, must not pay for at import time.
HEAVY = {
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "locust",
    "huggingface_hub",
    "gguf",
    "matplotlib",
    "modelopt",
    "openvino",
}
BACKEND_MODULES = {
    *(
        "jinja2",
        "llguidance",
        "numpy",
        "onnxruntime",
        "openvino",
        "openvino_genai",
        "tensorrt_llm",
        "tokenizers",
        "triton_python_backend_utils",
        "yaml",
    )
}


def imports(file: Path, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(file.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def files(floor: str) -> list[Path]:
    return sorted(FOLDERS.get(floor, ROOT / floor).rglob("*.py"))


@pytest.mark.parametrize("floor", ARROWS)
def test_a_floor_imports_only_what_its_arrows_allow(floor: str) -> None:
    assert files(floor)
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files(floor)
        for name in imports(file)
        if name.split(".")[0] in ARROWS.keys() - ARROWS[floor]
    ]
    assert wrong == []


def test_loadtests_takes_only_errors_and_declarations_from_the_lowest_floor() -> None:
    taken = {name for file in files("loadtests") for name in imports(file) if name.startswith("ensembles")}
    assert taken <= {"ensembles.errors", "ensembles.declaration"}


@pytest.mark.parametrize("floor", ["ensembles", "pipeline", "serving", "yard"])
def test_heavy_packages_are_imported_inside_functions(floor: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files(floor)
        for name in imports(file, top_level_only=True)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_backends_import_nothing_of_ours() -> None:
    backends = sorted(BACKENDS.rglob("*.py"))
    assert backends
    for file in backends:
        own = {each.stem for each in file.parent.glob("*.py")}
        names = {name.split(".")[0] for name in imports(file)}
        assert names <= BACKEND_MODULES | own | set(sys.stdlib_module_names), file


def test_only_yard_prints_and_exits() -> None:
    for floor in ARROWS.keys() - {"yard"}:
        for file in files(floor):
            calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
            names = {ast.unparse(call) for call in calls}
            # The keeper is a process of its own.
            assert file.name == "keeper.py" or not names & {"print", "sys.exit", "exit", "click.echo"}, file
