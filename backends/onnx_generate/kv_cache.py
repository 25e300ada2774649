"""A layer's keys or values of all slots, in this process' memory or in a GPU's: rows by address, and copies of rows.

Knows nothing of graphs or tokens. Both kinds are [slots, heads, length, head size]; `at` says where rows lie, as ONNX
Runtime's `bind_input` and `bind_output` want it.
"""

import ctypes
import math
from pathlib import Path

import numpy as np
import onnxruntime as ort

DEVICE_TO_DEVICE = 3  # cudaMemcpyKind


class HostCache:
    """A numpy array."""

    def __init__(self, shape, dtype):
        # Fresh pages of zeros are not memory yet: the system maps them when they are first written.
        self._values = np.zeros(shape, dtype)

    def at(self, first, end):
        """Return device, its number, type, shape and address of the rows first..end-1."""
        rows = self._values[first:end]
        return "cpu", 0, rows.dtype.type, rows.shape, rows.ctypes.data

    def copy(self, source, target, length):
        """Copy the first `length` tokens of row `source` to row `target`."""
        self._values[target, :, :length] = self._values[source, :, :length]

    def swap(self, first, second, lengths):
        """Exchange two rows, of which the first `lengths` (of each) tokens count."""
        kept = self._values[first, :, : lengths[0]].copy()
        self.copy(second, first, lengths[1])
        self._values[second, :, : lengths[0]] = kept


class DeviceCache:
    """Memory of the first GPU that this process sees."""

    def __init__(self, shape, dtype, cuda):
        # Zeros, for what kernels mask they may still multiply.
        self._value = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), "cuda", 0)
        self._shape, self._dtype, self._cuda = tuple(shape), np.dtype(dtype), cuda

    def at(self, first, end):
        """Return device, its number, type, shape and address of the rows first..end-1."""
        return "cuda", 0, self._dtype.type, (end - first, *self._shape[1:]), self._address(first)

    def copy(self, source, target, length):
        """Copy the first `length` tokens of row `source` to row `target`."""
        self._copy(self._address(source), self._address(target), length)

    def swap(self, first, second, lengths):
        """Exchange two rows, of which the first `lengths` (of each) tokens count."""
        kept = self._cuda.scratch(self._row_bytes)
        self._copy(self._address(first), kept, lengths[0])
        self.copy(second, first, lengths[1])
        self._copy(kept, self._address(second), lengths[0])

    def _copy(self, source, target, length):
        _, heads, longest, head_size = self._shape
        token = head_size * self._dtype.itemsize
        self._cuda.copy_blocks(target, source, longest * token, length * token, heads)

    @property
    def _row_bytes(self):
        return math.prod(self._shape[1:]) * self._dtype.itemsize

    def _address(self, row):
        return self._value.data_ptr() + row * self._row_bytes


class CudaRuntime:
    """The calls of NVIDIA's CUDA runtime that ONNX Runtime has no words for (CUDA Runtime API, "Memory Management")."""

    def __init__(self, library=None):
        self._library = library or ctypes.CDLL(_loaded("libcudart.so"))
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        self._scratch, self._scratch_size = None, 0

    def scratch(self, size):
        """Return the address of `size` bytes on the GPU that are free until the next call: one row for all layers."""
        if self._scratch_size < size:
            self._scratch = ort.OrtValue.ortvalue_from_numpy(np.empty(size, np.uint8), "cuda", 0)
            self._scratch_size = size
        return self._scratch.data_ptr()

    def copy_blocks(self, target, source, pitch, width, count):
        """Copy `count` blocks of `width` bytes, `pitch` bytes apart in both places, between addresses of one GPU."""
        pitch, width, count = map(ctypes.c_size_t, (pitch, width, count))
        arguments = ctypes.c_void_p(target), pitch, ctypes.c_void_p(source), pitch, width, count, DEVICE_TO_DEVICE
        self._check(self._library.cudaMemcpy2D(*arguments))
        # Nothing waits for such a copy by itself, and ONNX Runtime's stream does not wait for the default one.
        self._check(self._library.cudaStreamSynchronize(None))

    def _check(self, code):
        if code:
            raise RuntimeError(f"CUDA error {code}: {self._library.cudaGetErrorString(code).decode()}")


def _loaded(name):
    """Return the path of the library `name` in this process: ONNX Runtime's own, whatever its version."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(name):
            return path
    raise RuntimeError(f"ONNX Runtime has loaded no {name}: it is built without CUDA")
