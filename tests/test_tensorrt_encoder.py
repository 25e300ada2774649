"""The commands that build a TensorRT plan, and what a failure of theirs says; no TensorRT, no GPU."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ensembles.embed import shape_profile
from pipeline import tensorrt_encoder
from pipeline.gpu import Gpu
from pipeline.runner import NOT_FOUND, Ran
from pipeline.tensorrt_encoder import IMAGE, PlanError, build, commands, gpu_for, polygraphy_command
from pipeline.tensorrt_version import TensorRtVersionError, tensorrt_version

H200 = Gpu(0, "GPU-0a", "NVIDIA H200", "9.0", 143771, "590.44.01")
L4 = Gpu(1, "GPU-1b", "NVIDIA L4", "8.9", 23034, "590.44.01")
INPUTS = ("input_ids", "attention_mask")
PROFILE = shape_profile(64, 256)

COMMAND = """\
polygraphy convert /engine/model.onnx --convert-to trt --strongly-typed
--trt-min-shapes input_ids:[1,1] attention_mask:[1,1]
--trt-opt-shapes input_ids:[16,64] attention_mask:[16,64]
--trt-max-shapes input_ids:[64,256] attention_mask:[64,256]
--output /engine/model_cc90.plan
"""


@pytest.fixture(params=[False, True], ids=["docker", "in place"])
def in_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(tensorrt_encoder, "is_here", lambda tool: request.param)
    return bool(request.param)


def streamer(code: int, lines: Sequence[str], made: Path | None = None) -> Callable[..., int]:
    """A tool that says `lines`, leaves the file `made`, and ends with `code`."""

    def stream(argv: Sequence[str], on_line: Callable[[str], None]) -> int:
        for line in lines:
            on_line(line)
        if made:
            made.write_bytes(b"plan")
        return code

    return stream


def test_the_command_says_graph_shapes_and_plan() -> None:
    assert polygraphy_command(INPUTS, PROFILE, "9.0", "/engine") == COMMAND.split()


def test_precision_is_the_graphs_own() -> None:
    """TensorRT 11 refuses the flags that would choose one."""
    assert not {"--fp16", "--bf16", "--int8", "--fp8"} & set(polygraphy_command(INPUTS, PROFILE, "9.0", "/engine"))


def test_the_plan_is_built_on_the_gpu_it_is_for(tmp_path: Path, in_place: bool) -> None:
    argvs = commands(INPUTS, PROFILE, L4, tmp_path)
    last = argvs[-1]
    if in_place:
        assert len(argvs) == 1
        assert last[:3] == ["env", "CUDA_VISIBLE_DEVICES=GPU-1b", "polygraphy"]
        assert last[-1] == f"{tmp_path}/model_cc89.plan"
    else:
        assert argvs[0][:4] == ["docker", "build", "--tag", IMAGE]
        assert Path(argvs[0][5]).is_file()
        assert "--gpus=device=GPU-1b" in last
        assert f"--volume={tmp_path}:/engine" in last
        assert last[last.index(IMAGE) + 1 :] == polygraphy_command(INPUTS, PROFILE, "8.9", "/engine")


def test_what_the_tool_says_is_heard_and_its_plan_stays(tmp_path: Path, in_place: bool) -> None:
    heard: list[str] = []
    plan = tmp_path / "model_cc90.plan"
    build(INPUTS, PROFILE, H200, tmp_path, streamer(0, ["[I] Building engine"], plan), heard.append)
    assert set(heard) == {"[I] Building engine"}
    assert plan.read_bytes() == b"plan"


@pytest.mark.parametrize(
    ("code", "lines", "words"),
    [
        (1, [f"[I] {n}" for n in range(30)] + ["[!] Could not parse"], r"exit code 1; its last words:\n  \[I\] 16\n"),
        (1, [], "exit code 1; its last words:\n  nothing$"),
        (137, ["Killed"], "exit code 137"),
        (NOT_FOUND, ["docker: No such file or directory"], "neither polygraphy nor docker is on PATH; install Docker"),
        (0, ["done"], r"polygraphy ended well, but left no .*/model_cc90\.plan"),
    ],
)
def test_a_failure_is_explained(tmp_path: Path, in_place: bool, code: int, lines: list[str], words: str) -> None:
    with pytest.raises(PlanError, match=words) as raised:
        build(INPUTS, PROFILE, H200, tmp_path, streamer(code, lines), lambda line: None)
    assert str(raised.value).startswith("TensorRT plan for NVIDIA H200: ")
    if lines and code == 1:
        assert str(raised.value).endswith("  [!] Could not parse")


def test_a_plan_needs_a_gpu_of_its_compute_capability() -> None:
    assert gpu_for("8.9", [H200, L4]) is L4
    with pytest.raises(PlanError, match=r"8\.9 is built on a GPU that has it; here is 9\.0 \(NVIDIA H200\); .*L4"):
        gpu_for("8.9", [H200])
    with pytest.raises(PlanError, match=r"7\.5 .* here is none at all; build it on another machine, or take it out"):
        gpu_for("7.5", [])


@pytest.mark.parametrize("image", [None, IMAGE])
def test_the_versions_are_asked_where_the_tool_runs(image: str | None) -> None:
    asked: list[str] = []

    def run(argv: Sequence[str]) -> Ran:
        asked.extend(argv)
        return Ran(0, 'NVIDIA Release 26.07\n["11.1.0.5", "13.3.1.012"]\n')

    assert tensorrt_version(run, image) == ("11.1.0.5", "13.3.1.012")
    assert (IMAGE in asked) == (image is not None)
    with pytest.raises(TensorRtVersionError, match=r"does not tell its TensorRT \(exit code 1\): No module named"):
        tensorrt_version(lambda argv: Ran(1, stderr="No module named 'tensorrt'"), image)
