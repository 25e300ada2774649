"""GPUs as nvidia-smi tells them, the tools behind the seam, and what an engine's fingerprint says of a machine."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.errors import YardError
from pipeline import runner as seam
from pipeline.container_image import (
    KNOWN as IMAGES,
)
from pipeline.container_image import (
    ContainerImageError,
    container_image,
    has_engine_path,
)
from pipeline.gpu import KNOWN, Gpu, GpuError, known_gpu, read_gpus, version
from pipeline.gpu_fingerprint import (
    FILE,
    GpuFingerprint,
    GpuFingerprintError,
    mismatches,
    read_fingerprint,
    write_fingerprint,
)
from pipeline.runner import NOT_FOUND, TIMED_OUT, Ran, Runner

RECORDED = {
    name: Ran(**ran)
    for name, ran in json.loads((Path(__file__).parent / "recorded_gpu" / "nvidia_smi.json").read_text()).items()
}
IMAGE = IMAGES["1.2.1"]


def recorded(*names: str) -> Runner:
    """A runner that answers with the recordings `names`, one a call, the last for ever."""
    answers = [RECORDED[name] for name in names]

    def answer(argv: Sequence[str]) -> Ran:
        assert argv[0] == "nvidia-smi"
        return answers.pop(0) if len(answers) > 1 else answers[0]

    return answer


def h100(index: int = 0, **changes: object) -> Gpu:
    told = {"index": index, "uuid": f"GPU-{index}", "name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}
    return Gpu(**{**told, "memory_mib": 81559, "driver": "590.44.01", **changes})  # type: ignore[arg-type]


def fingerprint(**changes: object) -> GpuFingerprint:
    told = {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48", "cuda": "13.1.0", "compute_capability": "9.0"}
    rest = {"limits": {"max_batch_size": 64, "max_seq_len": 8192}, "checkpoint": "sha256:" + "0" * 64}
    return GpuFingerprint(**{**told, **rest, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["one H100"], [("NVIDIA H100 80GB HBM3", "9.0", 81559, False)]),
        (["one L4"], [("NVIDIA L4", "8.9", 23034, False)]),
        (["L4 and A10G"], [("NVIDIA L4", "8.9", 23034, False), ("NVIDIA A10G", "8.6", 23028, False)]),
        (["A100 under MIG"], [("NVIDIA A100-SXM4-80GB", "8.0", 81920, True)]),
        (["no compute_cap", "old driver, known"], [("NVIDIA A100-SXM4-40GB", "8.0", 40960, False)]),
        (["no capability told"], [("NVIDIA L40S", "8.9", 46068, False)]),
    ],
)
def test_gpus_are_read(names: list[str], expected: list[tuple[str, str, int, bool]]) -> None:
    gpus = read_gpus(recorded(*names))
    assert [(gpu.name, gpu.compute_capability, gpu.memory_mib, gpu.is_split) for gpu in gpus] == expected
    assert [gpu.index for gpu in gpus] == list(range(len(gpus)))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["not installed"], r"not installed; install NVIDIA's driver"),
        (["no driver"], r"cannot reach NVIDIA's driver; load it"),
        (["driver replaced"], r"newer than the driver that is loaded; restart"),
        (["no devices"], r"finds no GPU; .*--gpus all"),
        (["no devices, code 0"], r"finds no GPU; .*--gpus all"),
        (["insufficient permissions"], r"exit code 4: Failed to initialize NVML: Insufficient Permissions"),
        (["nothing"], r"lists no GPU"),
        (["cut short"], r"gave 3 values, 7 were asked for"),
        (["no memory"], r"no memory\.total of GPU 0 \(NVIDIA GB10\), but '\[N/A\]'"),
        (["lost"], r"exit code 15: Unable to determine .*GPU is lost"),
        (
            ["no compute_cap", "old driver, unknown"],
            r"driver 470\.182\.03 does not tell .*Quadro K620.*update the driver",
        ),
    ],
)
def test_what_nvidia_smi_cannot_tell_is_a_sentence(names: list[str], sentence: str) -> None:
    with pytest.raises(GpuError, match=sentence):
        read_gpus(recorded(*names))


@pytest.mark.parametrize(
    ("visible", "indices"),
    [(None, [0, 1, 2, 3]), ("2", [2]), ("3,0", [3, 0]), ("GPU-1111", [1]), ("0, GPU-33333333", [0, 3])],
)
def test_visible_devices_choose_and_order(visible: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in read_gpus(recorded("four H100"), visible)] == indices


@pytest.mark.parametrize(
    ("visible", "sentence"),
    [
        ("", "hides every GPU"),
        ("-1", "hides every GPU"),
        ("4", r"names '4', which is no GPU .*0 \(GPU-0000.*3 \(GPU-3333"),
        ("0,0", "names a GPU twice"),
        ("0,GPU-0", "names a GPU twice"),
        ("GPU-", "more than one GPU"),
        ("MIG-9b1d", "MIG slice"),
    ],
)
def test_visible_devices_that_name_nothing_are_refused(visible: str, sentence: str) -> None:
    with pytest.raises(GpuError, match=sentence):
        read_gpus(recorded("four H100"), visible)


def test_known_gpus_agree_with_what_nvidia_smi_says_of_them() -> None:
    for name, key in [("one H100", "H100 80GB"), ("one H200", "H200"), ("one L4", "L4")]:
        gpu = read_gpus(recorded(name))[0]
        assert (gpu.memory_mib, gpu.compute_capability) == (KNOWN[key].memory_mib, KNOWN[key].compute_capability)
    assert {name for name, gpu in KNOWN.items() if not gpu.has_fp8} == {
        *("A100 80GB", "A100 40GB", "A30", "A40", "A10G", "A10"),
    }
    with pytest.raises(GpuError, match="did you mean 'H100 80GB'"):
        known_gpu("H100 80 GB")


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=4), st.lists(st.integers(0, 9999), min_size=1, max_size=4))
def test_versions_compare_by_their_numbers(one: list[int], other: list[int]) -> None:
    texts = [".".join(map(str, numbers)) for numbers in (one, other)]
    assert (version(texts[0]) < version(texts[1])) == (one < other)


@pytest.mark.parametrize(
    ("changes", "gpus", "engine_mib", "sentences"),
    [
        ({}, [h100()], 20_000, []),
        ({"tensorrt_llm": None}, [h100()], 0, []),
        ({"tp": 2, "pp": 2}, [h100(index) for index in range(4)], 40_000, []),
        ({"tensorrt_llm": "1.0.0"}, [h100()], 0, [r"TensorRT-LLM 1\.0\.0, .* carries 1\.2\.1; build it again"]),
        ({"tensorrt": "10.13.3.9"}, [h100()], 0, [r"TensorRT 10\.13\.3\.9, .* carries 10\.14\.1\.48; build it again"]),
        (
            {"compute_capability": "8.9"},
            [h100()],
            0,
            [r"capability 8\.9, GPU 0 \(NVIDIA H100.*has 9\.0; build it again"],
        ),
        ({"tp": 4}, [h100(), h100(1)], 0, [r"runs on 4 GPUs \(tp 4 x pp 1\), 2 can be used here"]),
        ({}, [], 0, [r"runs on 1 GPU \(tp 1 x pp 1\), 0 can be used"]),
        (
            {"tp": 2},
            [h100(), h100(1, name="NVIDIA H200")],
            0,
            [r"0 is NVIDIA H100.*1 is NVIDIA H200; choose equal ones"],
        ),
        ({}, [h100(), h100(1, name="NVIDIA L4", compute_capability="8.9")], 0, []),
        ({}, [h100(driver="575.57.08")], 0, [r"575\.57\.08, CUDA 13\.1\.0 .* needs 580 or newer; update"]),
        ({}, [h100(driver="580.65.06")], 0, []),
        ({}, [h100()], 81_559, [r"take 81559 MiB .* has 81559 MiB; build it with a larger tp"]),
        ({}, [h100(is_split=True)], 0, [r"cut into MIG slices.*-i 0 -mig 0"]),
        ({"tensorrt": "10.0", "compute_capability": "8.0"}, [h100(driver="550.1")], 0, ["10.0", "550.1", "8.0"]),
    ],
)
def test_what_does_not_match_names_both_values_and_the_mend(
    changes: dict[str, object], gpus: list[Gpu], engine_mib: int, sentences: list[str]
) -> None:
    found = mismatches(fingerprint(**changes), gpus, IMAGE, engine_mib)
    assert len(found) == len(sentences)
    for each, sentence in zip(found, sentences, strict=True):
        assert re.search(sentence, each), each


def test_a_fingerprint_is_read_as_it_was_written(tmp_path: Path) -> None:
    for each in (fingerprint(tp=4, pp=2), fingerprint(tensorrt_llm=None)):
        write_fingerprint(tmp_path, each)
        assert read_fingerprint(tmp_path / FILE) == each
        assert [file.name for file in tmp_path.iterdir()] == [FILE]
    assert "tensorrt_llm" not in json.loads((tmp_path / FILE).read_text())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"has no fingerprint\.json: what built it is not known; build it again"),
        ("{", r"is not a fingerprint: Invalid JSON"),
        ("{}", r"is not a fingerprint: tensorrt: Field required"),
        ('{"tensorrt": "10", "cuda": "13", "compute_capability": "sm_90"}', r"compute_capability: String should match"),
    ],
)
def test_a_fingerprint_that_is_missing_or_broken_is_a_sentence(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(GpuFingerprintError, match=sentence):
        read_fingerprint(tmp_path / FILE)


def test_releases_without_engines_and_unknown_releases_are_refused() -> None:
    assert container_image("1.2.1") is container_image("1.2.1", IMAGE.image) is IMAGE
    assert IMAGE.tensorrt == "10.14.1.48"
    assert [has_engine_path(release) for release in ("0.20.0", "1.2.1", "1.3.0rc2", "2.0")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(
        ContainerImageError, match=r"no container image is known for TensorRT-LLM 1\.3\.0.*name the image"
    ):
        container_image("1.3.0")


def test_an_image_of_ones_own_keeps_what_is_known_of_the_release() -> None:
    ours = container_image("1.2.1", "registry.example/ours:1")
    assert (ours.image, ours.tensorrt) == ("registry.example/ours:1", IMAGE.tensorrt)
    foreign = container_image("1.1.0", "registry.example/ours:2")
    assert mismatches(fingerprint(tensorrt="9.0", tensorrt_llm="1.1.0"), [h100(driver="1.0")], foreign) == []


def test_a_tool_is_run_and_its_words_are_kept() -> None:
    done = seam.run([sys.executable, "-c", "import sys; print('out'); sys.stderr.write('a\\nlast\\n'); sys.exit(3)"])
    assert (done.code, done.stdout, done.words) == (3, "out\n", "last")
    assert Ran(1).words == "it said nothing"


def test_a_tool_that_is_not_there_or_hangs_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seam.run(["no-such-tool"]) == Ran(NOT_FOUND, stderr="no-such-tool: No such file or directory")
    lines: list[str] = []
    assert seam.stream(["no-such-tool"], lines.append) == NOT_FOUND
    assert lines == ["no-such-tool: No such file or directory"]
    monkeypatch.setitem(seam.LIMITS_S, "sleep", 0.05)
    assert seam.run(["sleep", "60"]).code == TIMED_OUT


def test_lines_come_while_the_tool_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo one; printf 'half\\rtwo\\n' >&2; while [ ! -e {gate} ]; do sleep 0.01; done; exit 7"
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line == "two":
            gate.touch()

    assert seam.stream(["sh", "-c", script], on_line) == 7
    assert lines == ["one", "half", "two"]


def gone(pid: int) -> bool:
    """Whether the process ends within five seconds."""
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
def test_whatever_on_line_raises_ends_the_whole_group(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seam, "GRACE_S", 0.1)
    children: list[int] = []

    def on_line(line: str) -> None:
        children.append(int(line))
        raise YardError("enough")

    with pytest.raises(YardError, match="enough"):
        seam.stream(["sh", "-c", f"{trap} sleep 60 & echo $!; wait"], on_line)
    assert gone(children[0])


def test_ctrl_c_ends_the_whole_group() -> None:
    children: list[int] = []
    # Where these tests run in the background Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_line(line: str) -> None:
        children.append(int(line))
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    try:
        with pytest.raises(KeyboardInterrupt):
            seam.stream(["sh", "-c", "sleep 60 & echo $!; wait"], on_line)
    finally:
        signal.signal(signal.SIGINT, before)
    assert gone(children[0])


def test_what_a_tool_leaves_running_ends_with_it() -> None:
    children: list[str] = []
    assert seam.stream(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], children.append) == 0
    assert gone(int(children[0]))
