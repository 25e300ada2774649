"""Triton's datatypes in numpy: which dtype holds each, which of a caller's values it takes, how it travels. Pure."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
# What Python and numpy call a truth value, a whole number, a floating one.
TRUTH, WHOLE, FLOATING = (bool, np.bool_), (int, np.integer), (float, np.floating)


class Unfit(Exception):
    """A value that a datatype does not take; its words say what was given, and where."""


def dtype_of(datatype: str) -> "np.dtype[Any] | None":
    """Return the dtype of a datatype, of BYTES that of objects; None where numpy has none.

    BF16 is that of `ml_dtypes`, where it is installed: numpy itself has no such type.
    """
    if datatype == "BF16":
        try:
            import ml_dtypes
        except ImportError:
            return None
        return np.dtype(ml_dtypes.bfloat16)
    return DTYPES.get(datatype)


def datatype_named(data_type: str) -> str:
    """Return the datatype of the wire for a configuration's `data_type`."""
    return "BYTES" if data_type == "TYPE_STRING" else data_type.removeprefix("TYPE_")


def is_array(value: object) -> bool:
    """Tell whether a value is an array, of numpy or of a kind that numpy reads, rather than a list or scalar."""
    return hasattr(value, "__array__") and not isinstance(value, np.generic)


def array_of(value: object, dtype: "np.dtype[Any]") -> Array:
    """Return `value` as an array of `dtype`, in which texts are UTF-8; raise Unfit.

    What is an array already must have the dtype: nothing is converted behind the caller's back. Lists and scalars
    are taken value by value, where nothing is lost but the digits that `dtype` has not.
    """
    if type(value) is np.ndarray and value.dtype == dtype and dtype.kind != "O":
        return value
    if is_array(value):
        found = np.asarray(value)
        if found.dtype.kind not in ("OUS" if dtype.kind == "O" else "O"):
            if found.dtype.newbyteorder("=") != dtype:
                mend = "pass str or bytes" if dtype.kind == "O" else f"convert it with .astype('{dtype}')"
                raise Unfit(f"an array of {found.dtype}; {mend}")
            return found.astype(dtype, order="C", copy=False)
        found = found.astype(object)
    else:
        try:
            found = np.array(value, dtype=object)
        except ValueError:
            raise Unfit("a list whose rows differ in shape") from None
    held = [_held(one, dtype, position, found.shape) for position, one in enumerate(found.ravel().tolist())]
    return np.array(held, dtype).reshape(found.shape)


def raw_of(array: Array) -> bytes:
    """Return an array in Triton's binary form."""
    return packed(array.flat) if array.dtype.kind == "O" else array.tobytes()


def packed(parts: Iterable[bytes]) -> bytes:
    """Return the binary form of a BYTES tensor: each of `parts` after its length in 4 bytes."""
    return b"".join([each for part in parts for each in (len(part).to_bytes(4, "little"), part)])


def _held(one: Any, dtype: "np.dtype[Any]", position: int, shape: tuple[int, ...]) -> Any:
    """Return one value as `dtype` takes it; raise Unfit."""
    surrogate = ""
    if dtype.kind == "O" and isinstance(one, str):
        try:
            return one.encode()
        except UnicodeEncodeError as error:
            surrogate = f", which holds a lone surrogate U+{ord(one[error.start]):04X}"
    elif _takes(dtype, one):
        return one
    if isinstance(one, list | tuple):
        raise Unfit("a list whose rows differ in length")
    where = f" at {[int(index) for index in np.unravel_index(position, shape)]}" if shape else ""
    raise Unfit(f"{type(one).__name__} {one!r:.40}{where}{surrogate}")


def _takes(dtype: "np.dtype[Any]", one: Any) -> bool:
    if dtype.kind == "O":
        return isinstance(one, bytes)
    if dtype.kind == "b" or isinstance(one, TRUTH):
        return dtype.kind == "b" and isinstance(one, TRUTH)
    whole = isinstance(one, WHOLE)
    if dtype.kind in "iu":
        return whole and np.iinfo(dtype).min <= one <= np.iinfo(dtype).max
    if not whole and not isinstance(one, FLOATING):
        return False
    try:
        with np.errstate(over="ignore"):
            held = float(dtype.type(float(one)))
    except OverflowError:
        return False
    return held == one if whole else math.isinf(held) == math.isinf(one)
