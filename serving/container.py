"""The container runtime: NVIDIA's own Triton images with the same repository and backends.

Our `onnxruntime` stand-in is left out, for the image has NVIDIA's. The image of encoders and ONNX decoders is
`serving/Dockerfile`: NVIDIA's, plus the few packages that our other backends import. TensorRT-LLM's own image has them.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from pipeline.served import MOUNT
from serving.deployment import Deployment
from serving.embedded import ADMIN_HEADER, RESTRICTED, Launch, Ports
from serving.errors import ServingError
from serving.site import GPU_IMAGE, IMAGE, Site

DOCKERFILE = Path(__file__).parent / "Dockerfile"
STANDS_IN = "onnxruntime"
ONNXRUNTIME_GPU = "onnxruntime-gpu[cuda,cudnn]==1.31.1"


def builds_image(site: Site | None) -> bool:
    """Whether the image is one that we make: TensorRT-LLM's is served from as it is."""
    return site is None or not site.deployment.needs_llm


def build_command(site: Site | None = None) -> list[str]:
    """Return the argv that builds the image, for the CPU or for a `site` with GPUs."""
    image = ["--build-arg", f"ONNXRUNTIME={ONNXRUNTIME_GPU}", "--tag", GPU_IMAGE] if site else ["--tag", IMAGE]
    return ["docker", "build", *image, "--file", str(DOCKERFILE), str(DOCKERFILE.parent)]


def run_command(
    repository: Path,
    backends: Path,
    ports: Ports,
    name: str,
    key: str,
    shm_size: str,
    site: Site | None = None,
) -> list[str]:
    """Return the argv that runs the server as container `name`, published on loopback only.

    Without a `site`, which has GPUs, the whole repository is served on the CPU.
    """
    ours = [each for each in sorted(backends.iterdir()) if each.name != STANDS_IN and (each / "model.py").exists()]
    mounts = [f"--volume={each.resolve()}:/opt/tritonserver/backends/{each.name}:ro" for each in ours]
    return [
        *("docker", "run", "--rm", "--init", f"--name={name}", f"--shm-size={shm_size}"),
        *(_gpu_options(site.visible) if site else []),
        f"--publish=127.0.0.1:{ports.http}:8000",
        f"--publish=127.0.0.1:{ports.grpc}:8001",
        f"--publish=127.0.0.1:{ports.metrics}:8002",
        f"--volume={repository.resolve()}:{MOUNT}:ro",
        *(f"--volume={host.resolve()}:{inside}" for host, inside in (site.caches if site else {}).items()),
        *mounts,
        site.image.image if site else IMAGE,
        *(server_command(site.deployment, key) if site else ["tritonserver", *_options(key, auto_complete=False)]),
    ]


def server_command(deployment: Deployment, key: str) -> list[str]:
    """Return the argv of the server inside the container; an engine over several GPUs has a process each, under MPI.

    As TensorRT-LLM's launch script has it (`triton_backend/scripts/launch_triton_server.py`, leader mode): rank 0
    answers, the others load the engine alone and never open their ports.
    """
    options = _options(key, deployment.auto_complete)
    leader = ["tritonserver", *options, *_loads(deployment.models)]
    if deployment.ranks == 1:
        return leader
    worker = ["tritonserver", *options, *_loads(deployment.decoders)]
    command = ["mpirun", "--allow-run-as-root"]
    for rank in range(deployment.ranks):
        # The stubs of two servers on one machine must not share memory.
        prefix = f"--backend-config=python,shm-region-prefix-name=rank{rank}_"
        command += [*([":"] if rank else []), "-n", "1", *(worker if rank else leader), prefix]
    return command


def _loads(models: tuple[str, ...]) -> list[str]:
    return ["--model-control-mode=explicit", *(f"--load-model={model}" for model in models)]


def _options(key: str, auto_complete: bool) -> list[str]:
    return [
        f"--model-repository={MOUNT}",
        *([] if auto_complete else ["--disable-auto-complete-config"]),
        "--exit-timeout-secs=5",
        f"--http-restricted-api={RESTRICTED}:{ADMIN_HEADER}={key}",
        f"--grpc-restricted-protocol={RESTRICTED}:{ADMIN_HEADER}={key}",
    ]


def _gpu_options(visible: str | None) -> list[str]:
    # Docker parses the value as CSV: several devices stand in quotes of their own.
    gpus = "all" if visible is None else f'"device={visible}"'
    return [f"--gpus={gpus}", "--ulimit=memlock=-1", "--ulimit=stack=67108864"]


def build_image(site: Site | None = None) -> None:
    """Build the image, for the CPU or for a `site` with GPUs, where it is one that we make.

    Layers that are there already cost nothing.

    Raises ServingError with Docker's own words.
    """
    if not builds_image(site):
        return
    if shutil.which("docker") is None:
        raise ServingError("--runtime docker needs the docker command, which is not on PATH; install Docker")
    done = subprocess.run(build_command(site), capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ServingError(f"docker build failed: {words[-1] if words else 'it said nothing'}")


def launcher(shm_size: str, site: Site | None = None) -> Callable[[Path, Path, Ports, Path, str], Launch]:
    """Return the counterpart of `embedded.launch`: the scratch folder's name becomes the container's."""

    def launch(repository: Path, backends: Path, ports: Ports, scratch: Path, key: str) -> Launch:
        argv = run_command(repository, backends, ports, scratch.name, key, shm_size, site)
        return Launch(argv, dict(os.environ))

    return launch
