"""Which TensorRT and CUDA a tool builds with, asked in the place where it runs: what an engine itself does not tell."""

import json

from ensembles.errors import YardError
from pipeline.docker_command import docker_command
from pipeline.runner import Runner

ASK = 'import json, os, tensorrt; print(json.dumps([tensorrt.__version__, os.environ.get("CUDA_VERSION", "")]))'


class TensorRtVersionError(YardError):
    """The place that builds an engine does not tell its TensorRT."""


def tensorrt_version(run: Runner, image: str | None) -> tuple[str, str]:
    """Return the versions of TensorRT and CUDA in `image`, or here when it is None.

    Raises TensorRtVersionError: Python there has no TensorRT, or there is no Docker.
    """
    argv = ["python3", "-c", ASK]
    ran = run(docker_command(image, argv, {}) if image else argv)
    try:
        # Images greet on standard output too.
        tensorrt, cuda = json.loads(ran.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        where = f"image {image}" if image else "this environment"
        raise TensorRtVersionError(
            f"{where} does not tell its TensorRT (exit code {ran.code}): {ran.words}; build in the image that the "
            "README names"
        ) from None
    return str(tensorrt), str(cuda)
