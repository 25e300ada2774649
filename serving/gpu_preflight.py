"""What can be known before a GPU repository is served: the driver, the GPUs, Docker, the image, each engine."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ensembles.errors import YardError
from pipeline.container_image import ContainerImage
from pipeline.gpu import Gpu, GpuError, read_gpus, version
from pipeline.gpu_fingerprint import FILE, mismatches, read_fingerprint
from pipeline.runner import NOT_FOUND, Runner, run
from serving.errors import ServingError
from serving.preflight import Check

# Backends that load engines built for one GPU and one TensorRT.
ENGINE_BACKENDS = re.compile(r'^\s*(?:backend|platform):\s*"(?:tensorrtllm|tensorrt|tensorrt_plan)"', re.MULTILINE)
# Images that serving/Dockerfile makes.
OURS = "tritonyard/"
TOOLKIT = "sudo nvidia-ctk runtime configure --runtime=docker, then sudo systemctl restart docker"


def gpu_checks(
    repository: Path,
    container: ContainerImage,
    runner: Runner = run,
    visible: str | None = None,
    members: Collection[str] | None = None,
) -> Iterator[Check]:
    """Look at all that the models `members` of `repository` need of this machine to be served from `container`.

    Without `members` it is all of them. `visible` is the value of CUDA_VISIBLE_DEVICES. What is not known of the
    image is asked of it.
    """
    docker = _docker(runner)
    yield docker
    if docker.well:
        container, image = _image(container, runner)
        yield image
    gpus: list[Gpu] = []
    try:
        gpus = read_gpus(runner, visible)
    except GpuError as error:
        yield Check("GPUs", "none that can be used", str(error))
    else:
        yield Check("GPUs", "; ".join(_told(gpu) for gpu in gpus))
        yield _driver(gpus[0], container)
    yield from _engines(repository, members, gpus, container)


def require_gpu(
    repository: Path,
    container: ContainerImage,
    runner: Runner = run,
    visible: str | None = None,
    members: Collection[str] | None = None,
) -> None:
    """Raise ServingError, with everything that has to be mended, when `members` cannot be served here.

    The arguments are those of `gpu_checks`.
    """
    checks = gpu_checks(repository, container, runner, visible, members)
    if ill := [check for check in checks if not check.well]:
        raise ServingError("\n".join(f"{check.subject}: {check.found}; {check.mend}" for check in ill))


def _told(gpu: Gpu) -> str:
    split = ", cut into MIG slices" if gpu.is_split else ""
    return f"{gpu.index} {gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_mib} MiB{split}"


def _driver(gpu: Gpu, container: ContainerImage) -> Check:
    needed = container.min_driver
    if needed and version(gpu.driver) < version(needed):
        mend = f"CUDA {container.cuda} of {container.image} needs {needed} or newer; update the driver"
        return Check("driver", gpu.driver, mend)
    return Check("driver", gpu.driver)


def _docker(runner: Runner) -> Check:
    ran = runner(["docker", "info", "--format", "{{json .}}"])
    if ran.code == NOT_FOUND:
        return Check("docker", "absent", "install Docker: https://docs.docker.com/engine/install")
    if "permission denied" in ran.stderr:
        mend = "add yourself to the group: sudo usermod -aG docker $USER, and log in again"
        return Check("docker", "its daemon refuses this user", mend)
    if ran.code:
        return Check("docker", ran.words, "start it: sudo systemctl start docker")
    try:
        info = json.loads(ran.stdout)
    except ValueError:
        return Check("docker", "`docker info` gave no JSON", "update Docker to 23 or newer")
    found = f"{info.get('ServerVersion')}, runtimes {', '.join(sorted(info.get('Runtimes') or {}))}"
    # Docker hands GPUs out through NVIDIA's runtime, or since 28.2 through the Container Device Interface.
    devices = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or []]
    if "nvidia" in (info.get("Runtimes") or {}) or any(device.startswith("nvidia.com/gpu") for device in devices):
        return Check("docker", found)
    return Check("docker", f"{found}: no nvidia runtime", f"install the NVIDIA Container Toolkit, then {TOOLKIT}")


def _image(container: ContainerImage, runner: Runner) -> tuple[ContainerImage, Check]:
    """Whether the image is here, and the image with what it tells of itself."""
    ran = runner(["docker", "image", "inspect", "--format", "{{json .Config.Env}}", container.image])
    if ran.code and container.image.startswith(OURS):
        return container, Check("image", f"{container.image} is built at the first start")
    if ran.code:
        return container, Check("image", f"{container.image} is not here", f"docker pull {container.image}")
    container = container.completed(json.loads(ran.stdout) or [])
    versions = ((name, getattr(container, name.lower())) for name in ("Triton", "TensorRT", "CUDA"))
    told = ", ".join(f"{name} {version}" for name, version in versions if version)
    return container, Check("image", f"{container.image} with {told}" if told else container.image)


def _engines(
    repository: Path, members: Collection[str] | None, gpus: Sequence[Gpu], container: ContainerImage
) -> Iterator[Check]:
    """Each engine's fingerprint against what is here, and each engine that has none."""
    for config in sorted(repository.glob("*/config.pbtxt")):
        model = config.parent.name
        if members is not None and model not in members:
            continue
        files = sorted(config.parent.glob(f"*/**/{FILE}"))
        for file in files:
            yield _engine(file, model, gpus, container)
        if not files and ENGINE_BACKENDS.search(config.read_text(encoding="utf-8", errors="replace")):
            mend = "run `yard engines --profile gpu`, then `yard repository --profile gpu`"
            yield Check(f"engine {model}", f"no {FILE}: not built, or not by this tool", mend)


def _engine(file: Path, model: str, gpus: Sequence[Gpu], container: ContainerImage) -> Check:
    subject = f"engine {model}"
    try:
        fingerprint = read_fingerprint(file)
    except YardError as error:
        return Check(subject, "its fingerprint cannot be read", str(error))
    if not gpus:
        return Check(subject, str(fingerprint))  # That there is no GPU is said once.
    sizes = [each.stat().st_size for each in file.parent.iterdir() if each.suffix in (".engine", ".plan")]
    # Nor is the driver told again for each engine.
    found = mismatches(fingerprint, gpus, replace(container, min_driver=None), max(sizes, default=0) >> 20)
    return Check(subject, str(fingerprint), "; ".join(found))
