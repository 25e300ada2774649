"""A checkpoint's tensors as its safetensors files hold them, read in blocks of rows.

Files are read, never mapped into memory: a limit on the address space holds, whatever their size (the format:
safetensors' README, "Format": 8 bytes length, a JSON header, the numbers).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint import CheckpointError, read_json

if TYPE_CHECKING:
    import numpy as np

# safetensors' name of a dtype -> bytes a number.
SIZES = {"F32": 4, "F16": 2, "BF16": 2}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LONGEST_HEADER = 100_000_000  # bytes; safetensors reads none that is longer


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: `begin` is the offset of its first byte."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; of one number, for a vector."""
        return SIZES[self.dtype] * math.prod(self.shape[1:])

    @property
    def bytes(self) -> int:
        """Bytes of the whole tensor."""
        return SIZES[self.dtype] * math.prod(self.shape)

    def blocks(self, rows: int) -> Iterator[tuple[int, "np.ndarray[Any, Any]"]]:
        """Yield the tensor in blocks of at most `rows` rows, each with the number of its first row.

        A block is [rows, ...] in the stored dtype (bfloat16 is ml_dtypes'), and is overwritten by the next one.

        Raises CheckpointError: the file ends early.
        """
        import numpy as np

        memory = np.empty(min(rows, self.shape[0]) * self.row_bytes, np.uint8)
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.begin)
            for first in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - first)
                block = memory[: count * self.row_bytes]
                filled = 0
                while filled < block.size:
                    got = stream.readinto(block[filled:].data)
                    if not got:
                        raise CheckpointError(
                            f"checkpoint weights {self.file} end early: they were cut while being read"
                        )
                    filled += got
                yield first, block.view(numpy_type(self.dtype)).reshape(count, *self.shape[1:])


def read_shards(folder: Path) -> Mapping[str, Stored]:
    """Return all tensors of the checkpoint in `folder` by name: of one file, or of those that its index names.

    Raises CheckpointError: there are no safetensors weights, or a file is missing, damaged, or lacks a tensor.
    """
    if not (folder / INDEX).exists():
        if not (folder / SINGLE).exists():
            raise CheckpointError(f"checkpoint {folder} has neither {SINGLE} nor {INDEX}; only safetensors are read")
        return _read_header(folder / SINGLE)
    index = read_json(folder / INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict):
        raise CheckpointError(f"checkpoint file {folder / INDEX} has no weight_map: it is damaged, or no index")
    headers = {name: _read_header(folder / name) for name in sorted(set(places.values()))}
    for tensor, name in places.items():
        if tensor not in headers[name]:
            raise CheckpointError(
                f"checkpoint weights {folder / name} lack the tensor '{tensor}' that {INDEX} says is there"
            )
    return {tensor: headers[name][tensor] for tensor, name in places.items()}


def _read_header(file: Path) -> dict[str, Stored]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length <= min(size - 8, LONGEST_HEADER) else None
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint weights {file} are missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint weights {file} cannot be read: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"checkpoint weights {file} are damaged: {size} bytes hold no safetensors header")
    header.pop("__metadata__", None)
    return {name: _stored(file, name, entry, 8 + length, size) for name, entry in header.items()}


def _stored(file: Path, name: str, entry: Any, data: int, size: int) -> Stored:
    try:
        begin, end = (data + int(offset) for offset in entry["data_offsets"])
        dtype, shape = str(entry["dtype"]), tuple(int(length) for length in entry["shape"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"checkpoint weights {file} are damaged: no place is given for tensor '{name}'") from None
    if end > size:
        raise CheckpointError(f"checkpoint weights {file} are cut off: tensor '{name}' ends at byte {end} of {size}")
    found = Stored(file, dtype, shape, begin)
    # A dtype that is not converted is the business of who wants the tensor: it may be a buffer that nobody reads.
    if begin < data or (dtype in SIZES and end - begin != found.bytes):
        raise CheckpointError(
            f"checkpoint weights {file} are damaged: tensor '{name}' {list(shape)} of {dtype} has {end - begin} bytes"
        )
    return found


def numpy_type(dtype: str) -> Any:
    """Return numpy's type for one of SIZES; bfloat16 is ml_dtypes'."""
    import ml_dtypes
    import numpy as np

    return {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[dtype]
