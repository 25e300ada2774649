"""System shared memory: large tensors of `infer` lie where client and server both see them, instead of being sent.

Triton's system shared memory extension. A segment belongs to one request at a time; it is kept for the next as long as
all goes well. Its name is taken away as soon as the server has it mapped, so that the system frees it with the last of
both, however they end. (Python's own `multiprocessing.shared_memory` starts a process that watches over names.)
"""

import mmap
import os
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tritonyard._datatype import dtype_of
from tritonyard._errors import InvalidRequest, TritonyardError
from tritonyard._flows import Flow
from tritonyard._transport import Infer, ModelConfig, Place, Register, TensorConfig, Unregister, tensor

# Where Linux keeps POSIX shared memory.
FOLDER = Path("/dev/shm")
PREFIX = "tritonyard-client-"
# What is smaller is as fast over the wire.
LARGE = 64 * 1024
# Tensors begin at such offsets, as vector instructions like it.
ALIGNMENT = 64
SMALLEST = 1 << 20
# How long closing a client may wait for the server to let go.
PARTING_S = 1.0
MEND = "client and server must see the same /dev/shm: one host, and a container with --ipc=host"


class Segment:
    """A piece of shared memory of `size` bytes, which the server is to know as `name` and to find as `key`."""

    def __init__(self, size: int):
        self.name = f"{PREFIX}{uuid.uuid4().hex}"
        self.key = f"/{self.name}"
        self.size = size
        self.is_registered = False
        self._file = FOLDER / self.name
        try:
            handle = os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                # Not merely promised: what is promised and not there kills the process that writes to it.
                os.posix_fallocate(handle, 0, size)
                self._memory = mmap.mmap(handle, size)
            finally:
                os.close(handle)
        except OSError as error:
            self._file.unlink(missing_ok=True)
            raise InvalidRequest(f"{size} bytes of shared memory in {FOLDER} cannot be had: {error}") from None

    def registered(self) -> None:
        """Note that the server has it mapped."""
        self.is_registered = True
        self._file.unlink(missing_ok=True)

    def write(self, place: Place, raw: bytes) -> None:
        """Put `raw` at its place."""
        self._memory[place.offset : place.offset + place.size] = raw

    def read(self, place: Place, size: int) -> bytes:
        """Return a copy of the first `size` bytes at a place."""
        return self._memory[place.offset : place.offset + size]

    def close(self) -> None:
        """Let go of it."""
        self._file.unlink(missing_ok=True)
        self._memory.close()


class Segments:
    """The segments of a client; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Segment] = []
        self._names: list[str] = []

    def take(self, size: int) -> Segment:
        """Return a segment of at least `size` bytes for one request; raise InvalidRequest where there is no memory."""
        with self._lock:
            fitting = [each for each in self._free if each.size >= size]
            if fitting:
                best = min(fitting, key=lambda each: each.size)
                self._free.remove(best)
                return best
        segment = Segment(max(SMALLEST, 1 << (size - 1).bit_length()))
        with self._lock:
            self._names.append(segment.name)
        return segment

    def give_back(self, segment: Segment) -> None:
        """Keep a segment whose request has been answered."""
        with self._lock:
            self._free.append(segment)

    def drain(self) -> list[str]:
        """Let go of all that are free; return the names of all there ever were."""
        with self._lock:
            names, self._names = self._names, []
            free, self._free = self._free, []
        for segment in free:
            segment.close()
        return names


@dataclass(frozen=True)
class Layout:
    """Where the large tensors of a request lie, by name; `size` is that of all, 0 where none is large."""

    inputs: Mapping[str, tuple[int, int]]
    outputs: Mapping[str, tuple[int, int]]
    size: int


def laid_out(call: Infer, config: ModelConfig) -> Layout:
    """Return offset and size in bytes of the large inputs, and of the large outputs whose size `config` fixes."""
    end = 0

    def place(size: int) -> tuple[int, int]:
        nonlocal end
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        end = begin + size
        return begin, size

    inputs = {each.name: place(len(each.raw)) for each in call.inputs if len(each.raw) >= LARGE}
    batch = call.inputs[0].shape[:1] if config.max_batch_size and call.inputs else ()
    sizes = {name: _size(config.outputs[name], batch) for name in call.outputs}
    outputs = {name: place(size) for name, size in sizes.items() if size >= LARGE}
    return Layout(inputs, outputs, end)


def _size(output: TensorConfig, batch: tuple[int, ...]) -> int:
    """Return the bytes of an output, 0 where nobody knows before it is there."""
    dtype = dtype_of(output.datatype)
    if dtype is None or dtype.kind == "O" or -1 in output.dims:
        return 0
    return prod((*batch, *output.dims)) * dtype.itemsize


def sharing(call: Infer, config: ModelConfig, segments: Segments) -> Flow[dict[str, Any]]:
    """Ask with the large tensors in shared memory; return the outputs, none of which lies there any more."""
    layout = laid_out(call, config)
    if not layout.size:
        (answer,) = yield [call]
        return dict(answer)
    segment = segments.take(layout.size)
    try:
        if not segment.is_registered:
            yield from _registering(segment)
        placed = _placed(call, layout, segment)
        (answer,) = yield [placed]
        found = {name: _read(name, output, placed, segment) for name, output in answer.items()}
    except BaseException:
        # The server may still read and write there: it is never used again.
        segment.close()
        raise
    segments.give_back(segment)
    return found


def _registering(segment: Segment) -> Flow[None]:
    try:
        yield [Register(segment.name, segment.key, segment.size)]
    except TritonyardError as error:
        error.mend = error.mend or MEND
        raise
    segment.registered()


def _placed(call: Infer, layout: Layout, segment: Segment) -> Infer:
    def place(where: tuple[int, int]) -> Place:
        return Place(segment.name, *where)

    inputs = []
    for each in call.inputs:
        if (where := layout.inputs.get(each.name)) is not None:
            segment.write(place(where), each.raw)
            each = replace(each, raw=b"", place=place(where))
        inputs.append(each)
    return replace(call, inputs=tuple(inputs), places={name: place(where) for name, where in layout.outputs.items()})


def _read(name: str, output: Any, call: Infer, segment: Segment) -> "np.ndarray[Any, Any]":
    """Return an output, from where it lies if the answer tells but its form."""
    if not isinstance(output, TensorConfig):
        return np.asarray(output)
    place, dtype = call.places[name], dtype_of(output.datatype)
    size = prod(output.dims) * (dtype.itemsize if dtype is not None else 0)
    return tensor(name, output.datatype, list(output.dims), segment.read(place, min(size, place.size)))


def parting(segments: Segments) -> Flow[None]:
    """Have the server let go of all segments."""
    names = segments.drain()
    if names:
        yield [Unregister(name) for name in names]
