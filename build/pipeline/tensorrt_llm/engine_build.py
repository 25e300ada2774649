"""One run of trtllm-build: its output streamed, its exit code obeyed, and what it left looked at."""

import json
from collections.abc import Sequence
from pathlib import Path

from ensembles.errors import YardError
from pipeline.gpu_engines import TensorRtLlmEngine
from pipeline.runner import Streamer, watched
from pipeline.store import Report
from pipeline.tensorrt_llm.build_command import TOOL


class EngineBuildError(YardError):
    """trtllm-build failed, or built something else than was asked."""


def build_engine(
    name: str, engine: TensorRtLlmEngine, argv: Sequence[str], out: Path, stream: Streamer, report: Report
) -> None:
    """Run `argv`, which builds the `engine` of model `name` into `out`; what it says goes to `report`.

    Raises EngineBuildError: it failed, with its last words; or it is of another release, or ranks are missing.
    """
    code, said = watched(stream, argv, report)
    if code:
        raise EngineBuildError(f"engine {name}: {TOOL} failed with exit code {code}; its last words:\n{said}")
    try:
        built = json.loads((out / "config.json").read_text())["version"]
    except (OSError, ValueError, KeyError) as error:
        raise EngineBuildError(f"engine {name}: {TOOL} left no config.json with a version: {error}") from None
    if built != engine.release:
        raise EngineBuildError(
            f"engine {name} was built by TensorRT-LLM {built}, the recipe asks for {engine.release}; use the release's "
            "own container"
        )
    ranks = engine.tp * engine.pp
    for rank in range(ranks):
        if not (out / f"rank{rank}.engine").exists():
            raise EngineBuildError(f"engine {name}: {TOOL} left no rank{rank}.engine of {ranks}")
