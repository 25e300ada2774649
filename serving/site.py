"""Where one server of the profile `gpu` runs: what it loads, the image that has its backends, and the GPUs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ensembles.folder import read_folder
from pipeline.container_image import ContainerImage, container_image
from pipeline.fingerprint import file_digest
from pipeline.gpu_engines import LlmApiEngine, TensorRtLlmEngine
from pipeline.recipe import Recipe
from serving.deployment import Deployment
from serving.errors import ServingError
from serving.gpu_preflight import require_gpu

CACHE_KEY = "trt_engine_cache_path"
# What `serving/Dockerfile` makes of NVIDIA's image, for the CPU and for GPUs.
IMAGE = "tritonyard/tritonserver:26.07"
GPU_IMAGE = "tritonyard/tritonserver:26.07-gpu"
# `serving/Dockerfile`: NVIDIA's image of all backends but TensorRT-LLM's, of CUDA 13.3, and what ours import. Its
# TensorRT is that of NVIDIA's TensorRT image of the same month, in which plans are built.
ALL_BUT_LLM = ContainerImage(
    image=GPU_IMAGE, tensorrt_llm=None, tensorrt=None, cuda="13.3", min_driver="580", triton="2.71.0"
)


@dataclass(frozen=True)
class Site:
    """`visible` is the value of CUDA_VISIBLE_DEVICES, None where it is not set.

    `caches` are folders of this machine, and where the container has them, in which ONNX Runtime keeps the TensorRT
    engines that it builds.
    """

    repository: Path
    deployment: Deployment
    image: ContainerImage
    visible: str | None
    caches: Mapping[Path, str] = field(default_factory=dict)

    def require_machine(self) -> None:
        """Raise ServingError, with everything to be mended, when this machine cannot serve it."""
        require_gpu(self.repository, self.image, visible=self.visible, members=self.deployment.members)


def engine_caches(repository: Path, deployment: Deployment, root: Path) -> dict[Path, str]:
    """Return the caches, below `root`, of the encoders of `deployment` that TensorRT's provider runs.

    A folder for each content of the model: ONNX Runtime takes a cached engine without a look at the weights.
    """
    caches = {}
    for member in deployment.members:
        config = read_folder(repository / member).config
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator if config else []
        for accelerator in accelerators:
            if inside := accelerator.parameters.get(CACHE_KEY):
                content = file_digest(next((repository / member).glob("*/model.onnx")))
                caches[root / f"{member}-{content[:16]}"] = inside
    return caches


def image_of(deployment: Deployment, recipes: Sequence[Recipe]) -> ContainerImage:
    """Return the image that serves `deployment`, whose models are those of `recipes`.

    Raises ServingError: they were made for different releases of TensorRT-LLM.
    """
    if not deployment.needs_llm:
        return ALL_BUT_LLM
    images: dict[ContainerImage, str] = {}
    for recipe in recipes:
        match recipe.engine.gpu:
            case TensorRtLlmEngine() as engine:
                images[container_image(engine.release)] = recipe.name
            case LlmApiEngine() as engine:
                images[container_image(engine.release, engine.image)] = recipe.name
    if len(images) != 1:
        told = ", ".join(f"'{name}' in {image.image}" for image, name in images.items()) or "no recipe names one"
        raise ServingError(f"models of different images need a server each: {told}; name one model")
    return next(iter(images))
