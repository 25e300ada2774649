"""The embedded runtime: the real tritonserver binary that the package `nvidia-pytriton` carries.

What is laid out here was measured on tritonserver 2.51.0: the stub takes its Python from PATH, ignores PYTHONPATH,
puts its working directory first on sys.path, and must lie beside libtriton_python.so.
"""

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from serving.errors import ServingError

# Endpoints that change the server or reach its host's memory and files; a random key closes them (CVE-2025-23319).
RESTRICTED = "shared-memory,model-repository,trace,logging"
ADMIN_HEADER = "triton-admin-key"


@dataclass(frozen=True)
class Launch:
    """How one server is started: its argv and its environment."""

    argv: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Ports:
    """The three loopback ports of a server."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


def installation() -> Path:
    """Return the folder that holds bin/tritonserver.

    Raises ServingError: the package is not installed.
    """
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ServingError("the package nvidia-pytriton, which carries tritonserver, is missing; run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "tritonserver"


def stub() -> Path:
    """Return the Python backend's stub for the running Python.

    Raises ServingError: there is none for this version.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stubs = installation() / "python_backend_stubs"
    file = stubs / version / "triton_python_backend_stub"
    if not file.exists():
        known = ", ".join(sorted(folder.name for folder in stubs.iterdir()))
        raise ServingError(f"tritonserver has no Python stub for Python {version}, only for {known}")
    return file


def lay_out_backends(ours: Path, scratch: Path) -> None:
    """Make the folder `backends` of one server run in `scratch`: NVIDIA's python backend, and each of `ours`."""
    folder = scratch / "backends"
    python = folder / "python"
    # Copied: the server refuses a backend library whose link leads out of its backend directory.
    shutil.copytree(installation() / "backends" / "python", python)
    shutil.copy2(stub(), python)
    for backend in ours.iterdir():
        if (backend / "model.py").exists():
            (folder / backend.name).symlink_to(backend.resolve())


def launch(repository: Path, backends: Path, ports: Ports, scratch: Path, key: str) -> Launch:
    """Prepare a server in `scratch`, the run's own folder, whose unique name prefixes its shared-memory segments.

    `key` is the value of the header that opens the restricted endpoints.
    """
    lay_out_backends(backends, scratch)
    return Launch(command(repository, scratch, ports, key), environment())


def command(repository: Path, scratch: Path, ports: Ports, key: str) -> list[str]:
    """Return the argv of a server that listens on loopback only and serves exactly what is committed."""
    return [
        str(installation() / "bin" / "tritonserver"),
        f"--model-repository={repository.resolve()}",
        f"--backend-directory={scratch / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix(scratch)}",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={ports.http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={ports.grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports.metrics}",
        f"--http-restricted-api={RESTRICTED}:{ADMIN_HEADER}={key}",
        f"--grpc-restricted-protocol={RESTRICTED}:{ADMIN_HEADER}={key}",
        "--allow-gpu-metrics=false",
        "--exit-timeout-secs=5",
    ]


def shm_prefix(scratch: Path) -> str:
    """Return how the names of a run's shared-memory segments begin."""
    return f"{scratch.name}_"


def environment() -> dict[str, str]:
    """Return the environment of the server: its own libraries, this Python's, and this Python first on PATH."""
    libraries = installation().parents[1] / "nvidia_pytriton.libs"
    search = [str(libraries), sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, search)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        # What the stubs compute with is the model's own setting, not an inherited one.
        "PYTHONUNBUFFERED": "1",
    }
