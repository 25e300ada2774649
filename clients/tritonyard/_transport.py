"""What the client asks of a wire protocol: three calls, their answers, and who carries them.

Knows nothing of texts, policy or the error tree. A transport that gets no good answer raises Refused, and
nothing else but cancellation ever comes out of it.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Input:
    """One input tensor: `raw` is its content in Triton's binary form."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


@dataclass(frozen=True)
class Infer:
    """Ask `model` for `outputs`; the answer is `dict[str, np.ndarray]`.

    `rows` says where the rows of this request stand in the caller's own list.
    """

    model: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, bool] = field(default_factory=dict)
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class GetConfig:
    """Ask for the configuration of `model`; the answer is a ModelConfig."""

    model: str


@dataclass(frozen=True)
class Probe:
    """Ask whether `model`, or the whole server, is ready; the answer is a bool."""

    model: str | None = None


Call = Infer | GetConfig | Probe


@dataclass(frozen=True)
class ModelConfig:
    """What the client uses of a model's configuration: dims by tensor name, without the batch dimension."""

    max_batch_size: int
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]


class Refused(Exception):
    """No good answer: a gRPC status name or an HTTP code, and the words that came with it."""

    def __init__(self, status: str | int, words: str):
        super().__init__(status, words)
        self.status, self.words = status, words


class Deadline:
    """One time budget in seconds, running from its making."""

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Return the seconds left, always above 0; raise Refused when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise Refused("DEADLINE_EXCEEDED", "")
        return left


class Pending(Protocol):
    """A call under way. Either `result` or `cancel` must be called."""

    def result(self) -> Any:
        """Wait for the answer; raise Refused."""

    def cancel(self) -> None:
        """Give the call up at once; nothing happens where it is over."""


class Transport(Protocol):
    """A synchronous protocol; safe to use from many threads."""

    def ask(self, call: Call, deadline: Deadline) -> Any:
        """Return the answer, waiting on the caller's own thread; raise Refused."""

    def start(self, call: Call, deadline: Deadline) -> Pending:
        """Send the call and return without waiting for the answer; raise Refused."""

    def close(self) -> None:
        """Close all connections."""


class AsyncTransport(Protocol):
    """An asynchronous protocol, for one event loop."""

    async def ask(self, call: Call, deadline: Deadline) -> Any:
        """Return the answer; raise Refused. Cancelling the task cancels the call."""

    async def close(self) -> None:
        """Close all connections."""


def tensor(name: str, datatype: str, shape: list[int], raw: bytes) -> "np.ndarray[Any, Any]":
    """Return an output in numpy form, a view of `raw`; raise Refused where they contradict each other."""
    from tritonclient.utils import triton_to_np_dtype

    dtype = triton_to_np_dtype(datatype)
    if dtype in (None, np.object_) or len(raw) != int(np.prod(shape)) * np.dtype(dtype).itemsize:
        raise Refused("INTERNAL", f"output '{name}' is {datatype} {shape} in {len(raw)} bytes, which cannot be")
    return np.frombuffer(raw, dtype).reshape(shape)
