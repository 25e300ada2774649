"""A tool of one of NVIDIA's images, as the argv that runs it: through Docker, or in place inside such a container."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ensembles.errors import YardError
from pipeline.runner import Runner, Streamer
from pipeline.store import Report


class DockerError(YardError):
    """An image is not here and cannot be had."""


def is_here(tool: str) -> bool:
    """Whether `tool` is on PATH: then we are inside the container already."""
    return shutil.which(tool) is not None


def docker_command(image: str, argv: Sequence[str], mounts: Mapping[Path, str], gpus: str = "all") -> list[str]:
    """Return the argv that runs `argv` in `image` with `gpus` ("all", or "device=0,1") and host folders at `mounts`.

    What it writes belongs to whoever runs it; the limits and the shared memory are those that NVIDIA asks for.
    """
    return [
        *("docker", "run", "--rm", "--init", f"--gpus={gpus}", "--ipc=host"),
        *("--ulimit=memlock=-1", "--ulimit=stack=67108864"),
        *(f"--user={os.getuid()}:{os.getgid()}", "--env=HOME=/tmp"),
        *(f"--volume={host}:{inside}" for host, inside in mounts.items()),
        image,
        *argv,
    ]


def pull(image: str, run: Runner, stream: Streamer, report: Report) -> None:
    """Pull `image` when it is not here; what Docker says goes to `report`.

    Raises DockerError with Docker's last words.
    """
    if run(["docker", "image", "inspect", "--format", "{{.Id}}", image]).code == 0:
        return
    last = ""

    def on_line(line: str) -> None:
        nonlocal last
        last = line
        report(line)

    if code := stream(["docker", "pull", image], on_line):
        raise DockerError(f"image {image} cannot be pulled (exit code {code}): {last}")
