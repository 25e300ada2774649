"""The weights of one rank, `rank{N}.safetensors`, written in place and in any order.

The header comes first, so all shapes are known before the first number. It is, byte for byte, the one that
safetensors' own serialiser writes (`prepare` in safetensors/src/tensor.rs): tensors by name, since all are of one
dtype, no metadata, padded with spaces to a multiple of 8 bytes.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np

# TensorRT-LLM's name of a dtype -> safetensors'.
NAMES = {"float16": "F16", "bfloat16": "BF16"}
SIZE = 2  # bytes a number, of both


class RankFile:
    """A new file at `path` for `tensors`, name to shape, its room reserved; what is not written is zero."""

    def __init__(self, path: Path, tensors: Mapping[str, tuple[int, ...]], dtype: str):
        header = {}
        self._begins: dict[str, int] = {}
        self._row_bytes = {name: SIZE * math.prod(shape[1:]) for name, shape in tensors.items()}
        end = 0
        for name in sorted(tensors):
            self._begins[name], end = end, end + SIZE * math.prod(tensors[name])
            header[name] = {
                "dtype": NAMES[dtype],
                "shape": list(tensors[name]),
                "data_offsets": [self._begins[name], end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._data = 8 + len(text)
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            # A full disk is known now, not an hour later.
            os.posix_fallocate(self._file, 0, self._data + end)
            self._put(0, memoryview(len(text).to_bytes(8, "little") + text))
        except BaseException:
            self.close()
            raise

    def write(self, name: str, row: int, numbers: "np.ndarray[Any, Any]") -> None:
        """Write whole rows of the tensor `name` from `row` on: numbers of 2 bytes, [rows, width] or [rows]."""
        import numpy as np

        rows = np.ascontiguousarray(numbers)
        # numpy has no buffer of bfloat16: bytes are bytes.
        self._put(self._data + self._begins[name] + row * self._row_bytes[name], rows.view(np.uint8).reshape(-1).data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _put(self, offset: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
