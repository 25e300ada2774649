"""The container images that GPU engines are built and served in, and what each carries.

TensorRT-LLM 1.2.1 is the last release with engines; upstream removed `trtllm-build` and the C++ backend afterwards,
and later releases serve through the LLM API alone. Its image holds no other backends than TensorRT-LLM's and Python's;
plans and ONNX models are served in the image of the same month without `trtllm`, which is a CUDA generation ahead.
Versions: NVIDIA's release notes of both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ensembles.errors import YardError
from pipeline.gpu import version

ENGINE_RELEASE = "1.2.1"
ENGINES_END = (1, 3)
# The oldest driver branch of each CUDA, by NVIDIA's "minor version compatibility".
MIN_DRIVERS = {"12": "525", "13": "580"}
# How NVIDIA's images tell what they carry, in their environment.
TOLD = {"tensorrt": "TRT_VERSION", "cuda": "CUDA_VERSION", "triton": "TRITON_SERVER_VERSION"}


class ContainerImageError(YardError):
    """There is no known container image for what is asked."""


@dataclass(frozen=True)
class ContainerImage:
    """One image and the versions in it; None is a version that is not known, and not compared."""

    image: str
    tensorrt_llm: str | None
    tensorrt: str | None
    cuda: str | None
    min_driver: str | None
    """The oldest driver branch that runs this CUDA."""
    triton: str | None

    def completed(self, environment: Sequence[str]) -> "ContainerImage":
        """Return the image with what is not known of it taken from its environment, ``NAME=value`` each."""
        told = dict(pair.split("=", 1) for pair in environment if "=" in pair)
        # "10.14.1.48+cuda13.0" names the CUDA that TensorRT was built for.
        found = {field: told[name].split("+")[0] for field, name in TOLD.items() if told.get(name)}
        image = replace(self, **{field: value for field, value in found.items() if getattr(self, field) is None})
        return replace(image, min_driver=image.min_driver or MIN_DRIVERS.get((image.cuda or "").split(".")[0]))


KNOWN: Mapping[str, ContainerImage] = {
    "1.2.1": ContainerImage(
        image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        tensorrt_llm="1.2.1",
        tensorrt="10.14.1.48",
        cuda="13.1.0",
        min_driver="580",
        triton="2.71.0",
    ),
}


def has_engine_path(release: str) -> bool:
    """Return whether TensorRT-LLM `release` still builds and serves engines."""
    return version(release)[:2] < ENGINES_END


def container_image(release: str, image: str | None = None) -> ContainerImage:
    """Return the container image for TensorRT-LLM `release`; `image` takes the place of the known one.

    Raises ContainerImageError: the release is not a known one, and no `image` is given.
    """
    if release in KNOWN and image in (None, KNOWN[release].image):
        return KNOWN[release]
    if image:
        unknown = ContainerImage(image, release, None, None, None, None)
        return replace(KNOWN[release], image=image) if release in KNOWN else unknown
    raise ContainerImageError(
        f"no container image is known for TensorRT-LLM {release}, only for {', '.join(KNOWN)}; name the image too"
    )
