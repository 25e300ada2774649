"""Recorded lines of failing servers: each known error explains its own, no other row does, and a healthy start none."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.embedded import Ports
from serving.explanations import CAUSES, SYMPTOMS, explain
from serving.server import Server

RECORDED = Path(__file__).parent / "recorded_gpu"


def excerpts() -> Iterator[tuple[str, str]]:
    """Each recorded excerpt of a log, with the name of the row that explains it; its source stands in its header."""
    for file in sorted(RECORDED.glob("*.log")):
        for block in re.split(r"^# ", file.read_text(), flags=re.MULTILINE)[1:]:
            header, lines = block.split("\n", 1)
            name, source = header.split(": ", 1)
            assert source, header
            yield name, lines


EXCERPTS = list(excerpts())
FAILING = [(name, lines) for name, lines in EXCERPTS if name != "ordinary"]
ORDINARY = [lines for name, lines in EXCERPTS if name == "ordinary"]


@pytest.mark.parametrize(("name", "lines"), FAILING)
def test_a_recorded_failure_is_explained(name: str, lines: str) -> None:
    explanation = explain(lines)
    assert explanation
    assert explanation.name == name
    assert explanation.line in lines
    assert "{" not in explanation.cause.replace("{'", "") + explanation.mend
    assert explanation.is_symptom == (name in {error.name for error in SYMPTOMS})
    assert str(explanation) == f"{explanation.cause}; {explanation.mend}"
    claims = [error.name for error in CAUSES if error.search(explanation.line)]
    assert claims == ([] if explanation.is_symptom else [name]), "another row claims the line"


def test_every_row_has_a_recorded_failure_and_a_name_of_its_own() -> None:
    names = [error.name for error in (*CAUSES, *SYMPTOMS)]
    assert len(names) == len(set(names)) >= 25
    assert set(names) == {name for name, _ in FAILING}


@pytest.mark.parametrize("lines", ORDINARY)
def test_ordinary_lines_explain_nothing(lines: str) -> None:
    assert explain(lines) is None
    for line in lines.splitlines():
        assert explain(line) is None, line


@pytest.mark.parametrize("lines", ORDINARY)
@pytest.mark.parametrize(("name", "failure"), FAILING[::7])
def test_the_first_cause_is_found_among_ordinary_lines_and_symptoms(lines: str, name: str, failure: str) -> None:
    end = "error: creating server: Internal - failed to load all models\n"
    for text in (lines + failure + end, end + lines + failure):
        explanation = explain(text)
        assert explanation
        assert explanation.name == name
    port = "E0705 08:07:40.219789 79386 main.cc:245] failed to start GRPC service: Socket 'x:1' already in use"
    later = explain(failure + port)
    assert later
    assert later.name == ("port" if name in {error.name for error in SYMPTOMS} else name)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("other-gpu", "the engine was built for compute capability 8.9, this GPU has 9.0"),
        ("other-tensorrt", "the engine was built by TensorRT 8.6.1.6, the server has 8.6.1.2"),
        ("kv-cache-small", "the memory left for the KV cache holds 29184 tokens"),
        ("backend-missing", "this image has no backend 'tensorrtllm'"),
        ("ensemble-datatype", "is TYPE_INT64 in model llama_tokenizer and TYPE_INT32 in model llama_tensorrt_llm"),
        ("module-missing", "a Python model imports 'tokenizers'"),
        ("port", "0.0.0.0:18001 is taken"),
    ],
)
def test_a_cause_names_what_the_line_says(name: str, cause: str) -> None:
    lines = next(lines for each, lines in FAILING if each == name)
    assert cause in str(explain(lines))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "E0 x] \"failed to load 'llama' version 1: Invalid argument: unable to find backend library for backend "
            "'tensorrtllm', try specifying runtime on the model configuration.\"",
            r"model 'llama' failed to load: this image has no backend 'tensorrtllm'; serve in the image .*"
            r"the server said: E0 x\] .*\(log: .*log\)",
        ),
        ("Bus error (7)", r"/dev/shm is full, .*--shm-size=2g; the server said: Bus error \(7\) \(log: "),
        (
            "E0 x] \"failed to load 'llama' version 1: Internal: nobody knows this\"",
            r"model 'llama' failed to load: Internal: nobody knows this \(log: ",
        ),
        ("Bus error (7)" + " stack" * 1000, r".{200,600}\[\.\.\.\] \(log: [^)]*\)$"),
        ("E0 x] nobody knows this", r"its last error: E0 x\] nobody knows this \(log: "),
        ("", r"its last error: none \(log: "),
    ],
)
def test_a_server_says_the_cause_the_mend_and_its_own_words(tmp_path: Path, text: str, says: str) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    assert re.match(says, Server(tmp_path, tmp_path, Ports(), log).explain())
