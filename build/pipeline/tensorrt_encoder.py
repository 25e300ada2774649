"""The engine kind `tensorrt encoder`: a plain ONNX graph as a TensorRT plan, built on the GPU it is for.

Polygraphy builds it, in a container with the TensorRT that will serve, or in place where it is on PATH. Precision is
the graph's own: the network is strongly typed, as all of TensorRT 11 are, and so computes what was proved on the CPU.
Flags: `polygraphy convert --help` of the version in tensorrt.Dockerfile.
"""

from collections.abc import Sequence
from pathlib import Path

from ensembles.embed import ShapeProfile, plan_file
from ensembles.errors import YardError
from pipeline.docker_command import docker_command, is_here
from pipeline.gpu import KNOWN, Gpu
from pipeline.onnx_encoder import MODEL
from pipeline.runner import NOT_FOUND, Streamer, watched
from pipeline.store import Report

TOOL = "polygraphy"
IMAGE = "tritonyard/tensorrt:26.07"
DOCKERFILE = Path(__file__).parent / "tensorrt.Dockerfile"
# Where the container sees the folder of the graph and of the plan.
FOLDER = "/engine"
# Asked where the plan is built; the images say in their environment which CUDA they carry.


class PlanError(YardError):
    """A TensorRT plan could not be built."""


def gpu_for(capability: str, gpus: Sequence[Gpu]) -> Gpu:
    """Return the first of `gpus` that a plan for the compute capability `capability` can be built on.

    Raises PlanError: there is none.
    """
    for gpu in gpus:
        if gpu.compute_capability == capability:
            return gpu
    here = ", ".join(sorted({f"{gpu.compute_capability} ({gpu.name})" for gpu in gpus})) or "none at all"
    known = ", ".join(name for name, gpu in KNOWN.items() if gpu.compute_capability == capability)
    raise PlanError(
        f"a TensorRT plan for compute capability {capability} is built on a GPU that has it; here is {here}; "
        f"build it on another machine{f' ({known})' if known else ''}, or take it out of compute_capabilities"
    )


def polygraphy_command(inputs: Sequence[str], profile: ShapeProfile, capability: str, folder: str) -> list[str]:
    """Return the argv that turns model.onnx in `folder`, with its `inputs`, into the plan beside it. Pure."""
    shapes = (("min", profile.min), ("opt", profile.opt), ("max", profile.max))
    return [
        *(TOOL, "convert", f"{folder}/{MODEL}", "--convert-to", "trt", "--strongly-typed"),
        *(
            word
            for key, (texts, tokens) in shapes
            for word in (f"--trt-{key}-shapes", *(f"{name}:[{texts},{tokens}]" for name in inputs))
        ),
        *("--output", f"{folder}/{plan_file(capability)}"),
    ]


def commands(inputs: Sequence[str], profile: ShapeProfile, gpu: Gpu, folder: Path) -> list[list[str]]:
    """Return the commands that build the plan of `folder` for `gpu`, in their order: each an argv.

    Inside a container that has polygraphy it is one, else Docker builds an image first; again it costs nothing.
    """
    capability = gpu.compute_capability
    if is_here(TOOL):
        # By its UUID: CUDA counts GPUs in another order than nvidia-smi.
        argv = polygraphy_command(inputs, profile, capability, str(folder))
        return [["env", f"CUDA_VISIBLE_DEVICES={gpu.uuid}", *argv]]
    argv = polygraphy_command(inputs, profile, capability, FOLDER)
    return [
        ["docker", "build", "--tag", IMAGE, "--file", str(DOCKERFILE), str(DOCKERFILE.parent)],
        docker_command(IMAGE, argv, {folder.resolve(): FOLDER}, gpus=f"device={gpu.uuid}"),
    ]


def build(
    inputs: Sequence[str], profile: ShapeProfile, gpu: Gpu, folder: Path, stream: Streamer, report: Report
) -> None:
    """Turn model.onnx in `folder` into the plan for `gpu` beside it; what the tools say goes to `report`.

    Raises PlanError: a command failed, with its last lines, or left no plan.
    """
    for argv in commands(inputs, profile, gpu, folder):
        _run(argv, gpu, stream, report)
    plan = folder / plan_file(gpu.compute_capability)
    if not plan.is_file():
        raise PlanError(f"TensorRT plan for {gpu.name}: {TOOL} ended well, but left no {plan}")


def _run(argv: Sequence[str], gpu: Gpu, stream: Streamer, report: Report) -> None:
    code, said = watched(stream, argv, report)
    if code == NOT_FOUND:
        raise PlanError(
            f"TensorRT plan for {gpu.name}: neither {TOOL} nor docker is on PATH; install Docker, or run this in a "
            "container with both TensorRT and polygraphy"
        )
    if code:
        name = f"{TOOL} convert" if TOOL in argv else " ".join(argv[:2])
        raise PlanError(f"TensorRT plan for {gpu.name}: `{name}` ended with exit code {code}; its last words:\n{said}")
