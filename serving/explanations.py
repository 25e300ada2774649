"""What a failing server's log means: the first known cause in it, and what mends that.

The tables are `serving.engine_errors` and `serving.server_errors`. What only says *that* something failed stands here,
and is told when the log holds no known cause.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serving.engine_errors import ENGINE_ERRORS
from serving.known_error import KnownError
from serving.server_errors import SERVER_ERRORS

CAUSES = ENGINE_ERRORS + SERVER_ERRORS
# The most telling first.
SYMPTOMS = (
    KnownError(
        "engine-unreadable",
        r"Failed to deserialize cuda engine|Engine deserialization failed|engine->deserialize\("
        r"|unable to load plan file|unable to create TensorRT engine",
        "TensorRT cannot read the engine",
        "build it again for this machine: `yard engines --profile gpu`",
    ),
    KnownError(
        "stub-ended",
        r"Failed to initialize stub, stub process exited unexpectedly|Stub process '[^']+' is not healthy",
        "the process of a Python model ended before it was ready",
        "its own words stand just before, on standard error; memory and /dev/shm are the usual reasons",
    ),
    KnownError(
        "worker-ended",
        r"RuntimeError: Executor worker returned error",
        "the worker of TensorRT-LLM's LLM API ended before it was ready",
        "its own words stand above, in the traceback of the worker",
    ),
    KnownError(
        "step-failed",
        r"depends on '(?P<model>[^']+)' which has no loaded version",
        "an ensemble cannot load, because its model {model} did not",
        "mend that model first",
    ),
    KnownError(
        "models-failed",
        r"failed to load all models",
        "at least one model did not load",
        'its line begins with "failed to load"',
    ),
)
# Information and warnings, of Triton (with its date), TensorRT and TensorRT-LLM: never why a server ended.
CHATTER = re.compile(
    r"^(?:[IWV]\d{4} |\[TensorRT-LLM\]\[(?:INFO|WARNING|DEBUG)\]|\[[^\]]*\] \[TRT(?:-LLM)?\] \[[IWV]\])"
)


@dataclass(frozen=True)
class Explanation:
    """What a line of a log means: the row's name, the line itself, the cause, and what mends it.

    `is_symptom` tells that the line only says that something failed, and that why is not known.
    """

    name: str
    line: str
    cause: str
    mend: str
    is_symptom: bool

    def __str__(self) -> str:
        return f"{self.cause}; {self.mend}"


def explain(text: str) -> Explanation | None:
    """Explain a log: its first known cause, else its most telling symptom; None when it holds neither."""
    lines = [line for line in text.splitlines() if not CHATTER.match(line)]
    for line in lines:
        for error in CAUSES:
            if found := error.search(line):
                return _explanation(error, found)
    return _symptom(lines)


def _symptom(lines: Sequence[str]) -> Explanation | None:
    for error in SYMPTOMS:
        for line in lines:
            if found := error.search(line):
                return _explanation(error, found)
    return None


def _explanation(error: KnownError, found: "re.Match[str]") -> Explanation:
    words = {name: value or "" for name, value in found.groupdict().items()}
    cause, mend = error.cause.format(**words), error.mend.format(**words)
    return Explanation(error.name, found.string.strip(), cause, mend, error in SYMPTOMS)
