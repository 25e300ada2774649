"""What the client asks of a wire protocol: its calls, their answers, and who carries them.

Knows nothing of texts, policy or the error tree. A transport that gets no good answer raises Refused, and nothing else
ever comes out of it but cancellation.
"""

import math
import os
import random
import struct
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from tritonyard._datatype import dtype_of

# What a request may say beside its tensors.
Parameter = bool | int | float | str
# What a call is sent with, names in lower case.
Headers = tuple[tuple[str, str], ...]

# Of its own: a caller who seeds Python's would get the same ids again. It asks the system for nothing.
_DICE = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_DICE.seed)


def _new_id() -> str:
    return _DICE.randbytes(16).hex()


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in shared memory: `size` bytes from `offset` on in what the server knows as `name`."""

    name: str
    offset: int
    size: int


# These two are not frozen: making them so would cost a tenth of a call's time here.
@dataclass(slots=True)
class Input:
    """One input tensor: `raw` is its content in Triton's binary form, unless it lies at `place`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes
    place: Place | None = None


@dataclass(slots=True)
class Infer:
    """Ask `model` for `outputs`; the answer is `dict[str, np.ndarray]`.

    `inputs` are the tensors as they are sent, `arrays` the same in numpy form; `parameters` are the request's own.
    `rows` says where the rows of this request stand in the caller's own list, `idempotent` that it may be answered
    twice, `places` where outputs are to be put that are not to be sent: of those the answer has a TensorConfig. `id`
    tells the request from all others in the server's log.
    """

    model: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, Parameter] = field(default_factory=dict)
    rows: tuple[int, ...] = ()
    idempotent: bool = False
    places: dict[str, Place] = field(default_factory=dict)
    id: str = field(default_factory=_new_id, compare=False)

    @property
    def arrays(self) -> "dict[str, np.ndarray[Any, Any]]":
        """The inputs in numpy form, BYTES as objects of type bytes."""
        return {each.name: tensor(each.name, each.datatype, list(each.shape), each.raw) for each in self.inputs}


@dataclass(frozen=True)
class GetConfig:
    """Ask for the configuration of `model`; the answer is a ModelConfig."""

    model: str
    idempotent: ClassVar[bool] = True
    id: ClassVar[str | None] = None


@dataclass(frozen=True)
class Probe:
    """Ask whether `model`, or the whole server, is ready; the answer is a bool."""

    model: str | None = None
    idempotent: ClassVar[bool] = True
    id: ClassVar[str | None] = None


@dataclass(frozen=True)
class Register:
    """Have the server map the shared memory `key` (POSIX), of `size` bytes, and know it as `name`; answered by None."""

    name: str
    key: str
    size: int
    model: ClassVar[str | None] = None
    idempotent: ClassVar[bool] = False
    id: ClassVar[str | None] = None


@dataclass(frozen=True)
class Unregister:
    """Have the server let go of the shared memory that it knows as `name`; answered by None."""

    name: str
    model: ClassVar[str | None] = None
    idempotent: ClassVar[bool] = True
    id: ClassVar[str | None] = None


Call = Infer | GetConfig | Probe | Register | Unregister


class Values(NamedTuple):
    """One row of an input, shape [1, n]: `content` holds str where `datatype` is BYTES, else bool, int or float."""

    datatype: str
    content: tuple[str | bool | int | float, ...]


@dataclass(frozen=True)
class Generate:
    """Ask `model`, which may answer many times, for text; an answer is a dict of its outputs by name.

    An output is a str, int or float, or a list of them unless it has exactly one. `inputs` are by name what was said,
    as a `datatype` and a tuple: `inputs["max_tokens"].content` is (64,), say; `parameters` are the request's own.
    `stream` says whether answers are wanted before the last one, `idempotent` that it may be answered twice. `id` tells
    this request from all others at the server: TensorRT-LLM's engine knows its streams by it.
    """

    model: str
    inputs: dict[str, Values]
    stream: bool
    idempotent: bool = False
    parameters: dict[str, Parameter] = field(default_factory=dict)
    id: str = field(default_factory=_new_id, compare=False)


Answer = dict[str, Any]


@dataclass(frozen=True)
class TensorConfig:
    """What a model declares of one tensor: its `datatype`, such as FP32 or BYTES, its `dims`, and if it is `optional`.

    `dims` are without the batch dimension, and -1 where any size will do.
    """

    datatype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """What the client uses of a model's configuration: its tensors, `inputs` and `outputs`, by name.

    A `max_batch_size` of 0 means that there is no batch dimension; `decoupled`, that one request may have any
    number of answers.
    """

    max_batch_size: int
    inputs: dict[str, TensorConfig]
    outputs: dict[str, TensorConfig]
    decoupled: bool = False

    @cached_property
    def fitting(self) -> set[tuple[Any, ...]]:
        """Names, dtypes and shapes of arrays that were found to fit it, and need not be looked at again."""
        return set()


class Refused(Exception):
    """No good answer: a gRPC status name or an HTTP code, and the words that came with it.

    `unsent` says that there was no connection to send the call on; `retry_after` is how many seconds the server asks
    to be left alone, None where it does not say.
    """

    def __init__(self, status: str | int | None, words: str, *, unsent: bool = False, retry_after: float | None = None):
        super().__init__(status, words)
        self.status, self.words, self.unsent, self.retry_after = status, words, unsent, retry_after


class Deadline:
    """One time budget in seconds, running from its making."""

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def remaining(self) -> float:
        """Return the seconds left, 0 or less where there are none."""
        return self._end - time.monotonic()

    def left(self) -> float:
        """Return the seconds left, always above 0; raise Refused when there are none."""
        left = self.remaining()
        if left <= 0:
            raise Refused("DEADLINE_EXCEEDED", "")
        return left


class Pending(Protocol):
    """A call under way. Either `result` or `cancel` must be called."""

    def result(self) -> Any:
        """Wait for the answer; raise Refused."""

    def cancel(self) -> None:
        """Give the call up at once; nothing happens where it is over."""


class Answers(Protocol):
    """The answers to one Generate, as they arrive; to be iterated once."""

    def __iter__(self) -> Iterator[Answer]:
        """Yield each answer as it comes, until the server has no more; raise Refused."""

    def cancel(self) -> None:
        """Give the call up at once, from any thread: who waits for an answer is woken by Refused."""


class Transport(Protocol):
    """A synchronous protocol; safe to use from many threads."""

    def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        """Return the answer, waiting on the caller's own thread; raise Refused."""

    def start(self, call: Call, deadline: Deadline, headers: Headers) -> Pending:
        """Send the call and return without waiting for the answer; raise Refused."""

    def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> Answers:
        """Send the call and return what its answers come from; raise Refused."""

    def close(self) -> None:
        """Close all connections."""


class AsyncTransport(Protocol):
    """An asynchronous protocol, for one event loop."""

    async def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        """Return the answer; raise Refused. Cancelling the task cancels the call."""

    def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> AsyncGenerator[Answer, None]:
        """Send the call and yield its answers as they come; raise Refused. Leaving the generator cancels the call."""

    async def close(self) -> None:
        """Close all connections."""


def tensor(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> "np.ndarray[Any, Any]":
    """Return an output in numpy form, BYTES as objects of type bytes; raise Refused where its parts contradict.

    All but BYTES is a view of `raw`.
    """
    dtype = dtype_of(datatype)
    try:
        if datatype == "BYTES":
            return _texts(raw, shape)
        found: np.ndarray[Any, Any] = np.ndarray(shape, dtype, raw)
        fits = dtype is not None and found.nbytes == len(raw)
    except (struct.error, ValueError, TypeError):
        fits = False
    if not fits:
        raise Refused("INTERNAL", f"output '{name}' is {datatype} {list(shape)} in {len(raw)} bytes, which cannot be")
    return found


def _texts(raw: bytes, shape: Sequence[int]) -> "np.ndarray[Any, Any]":
    from tritonclient.utils import deserialize_bytes_tensor

    flat: np.ndarray[Any, Any] = deserialize_bytes_tensor(raw)
    if flat.size != math.prod(shape):
        raise ValueError
    return flat.reshape(shape)
