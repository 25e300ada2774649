"""The container runtime: NVIDIA's own Triton image with the same repository and backends.

Our `onnxruntime` stand-in is left out, for the image has NVIDIA's. The image is `serving/Dockerfile`: NVIDIA's, plus
the few packages that our other backends import.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from serving.embedded import ADMIN_HEADER, RESTRICTED, Launch, Ports
from serving.errors import ServingError

IMAGE = "tritonyard/tritonserver:26.07"
DOCKERFILE = Path(__file__).parent / "Dockerfile"
STANDS_IN = "onnxruntime"


def build_command() -> list[str]:
    """Return the argv that builds the image."""
    return ["docker", "build", "--tag", IMAGE, "--file", str(DOCKERFILE), str(DOCKERFILE.parent)]


def run_command(repository: Path, backends: Path, ports: Ports, name: str, key: str, shm_size: str) -> list[str]:
    """Return the argv that runs the server as container `name`, published on loopback only."""
    ours = [each for each in sorted(backends.iterdir()) if each.name != STANDS_IN and (each / "model.py").exists()]
    mounts = [f"--volume={each.resolve()}:/opt/tritonserver/backends/{each.name}:ro" for each in ours]
    return [
        *("docker", "run", "--rm", "--init", f"--name={name}", f"--shm-size={shm_size}"),
        f"--publish=127.0.0.1:{ports.http}:8000",
        f"--publish=127.0.0.1:{ports.grpc}:8001",
        f"--publish=127.0.0.1:{ports.metrics}:8002",
        f"--volume={repository.resolve()}:/models:ro",
        *mounts,
        IMAGE,
        "tritonserver",
        "--model-repository=/models",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=5",
        f"--http-restricted-api={RESTRICTED}:{ADMIN_HEADER}={key}",
        f"--grpc-restricted-protocol={RESTRICTED}:{ADMIN_HEADER}={key}",
    ]


def build_image() -> None:
    """Build the image; layers that are there already cost nothing.

    Raises ServingError with Docker's own words.
    """
    if shutil.which("docker") is None:
        raise ServingError("--runtime docker needs the docker command, which is not on PATH; install Docker")
    done = subprocess.run(build_command(), capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ServingError(f"docker build of {IMAGE} failed: {words[-1] if words else 'it said nothing'}")


def launcher(shm_size: str) -> Callable[[Path, Path, Ports, Path, str], Launch]:
    """Return the counterpart of `embedded.launch`: the scratch folder's name becomes the container's."""

    def launch(repository: Path, backends: Path, ports: Ports, scratch: Path, key: str) -> Launch:
        argv = run_command(repository, backends, ports, scratch.name, key, shm_size)
        return Launch(argv, dict(os.environ))

    return launch
