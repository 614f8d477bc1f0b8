"""What Python gives the C interface: arrays, texts and numbers, checked so that C touches no bytes but theirs."""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .opening import CompileError, Tensor

TYPE_CODES = {"float32": 1, "int64": 2, "int32": 3, "bool": 4}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 4),
    ]


def whole_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> int:
    """`value` as an int from `low` to `high`. ctypes would cut off the higher bits. Raises CompileError."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise CompileError(f"{name} is {value!r}: give a whole number") from error
    if not low <= number <= high:
        raise CompileError(f"{name} is {number}: give {low} to {high}")
    return number


def utf8(text: Any, name: str) -> bytes:
    """A text as C takes it. Half a surrogate pair is no UTF-8, so the library leaves it out. Raises CompileError."""
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    if isinstance(text, bytes):
        return text
    raise CompileError(f"{name} is of type {type(text).__name__}: give str or UTF-8 bytes")


def converted(value: ArrayLike, entry: Tensor) -> NDArray[Any]:
    """`value` as an array of the input's type; only integers are converted, if all fit. Raises CompileError."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise CompileError(f"input {entry.name!r} is no array: {error}") from error
    wanted = np.dtype(entry.dtype)
    if array.dtype == wanted.newbyteorder() or array.dtype == wanted:
        return array.astype(wanted, copy=False)
    if not (array.dtype.kind in "iub" and wanted.kind == "i"):
        raise CompileError(f"input {entry.name!r} has type {array.dtype}, the model wants {entry.dtype}")
    limits = np.iinfo(wanted)
    if array.size and not np.can_cast(array.dtype, wanted):
        whole_number(array.min(), f"a number in input {entry.name!r}", limits.min, limits.max)
        whole_number(array.max(), f"a number in input {entry.name!r}", limits.min, limits.max)
    return array.astype(wanted)


def readable(array: Any, entry: Tensor) -> NDArray[Any]:
    """An input as C reads it: dense, aligned, in this machine's byte order. A copy where it is not."""
    array = np.asarray(array)
    _require_type(array, array.dtype.newbyteorder("="), "input", entry)
    return np.require(array, entry.dtype, ["C", "A"])


def writable(array: Any, entry: Tensor) -> NDArray[Any]:
    """An output, which C writes in place: raises CompileError where it would write something else."""
    if not isinstance(array, np.ndarray):
        raise CompileError(f"output {entry.name!r} is of type {type(array).__name__}: give an array to write to")
    array = np.asarray(array)  # as it is in memory, whatever a class of its own says
    _require_type(array, array.dtype, "output", entry)
    if not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
        raise CompileError(f"output {entry.name!r} is strided, misaligned or read-only: give a dense array to write to")
    return array


def _require_type(array: NDArray[Any], dtype: np.dtype[Any], kind: str, entry: Tensor) -> None:
    if dtype != np.dtype(entry.dtype) or array.ndim != len(entry.shape):
        wanted = f"{entry.dtype} {list(entry.shape)}"
        raise CompileError(f"{kind} {entry.name!r} is {array.dtype} {list(array.shape)}, the model has {wanted}")


def tensors(arrays: Sequence[NDArray[Any]]) -> Any:
    """pocketbert_tensor[]: views of arrays that are `readable` or `writable`, and must outlive them."""
    views = (_Tensor * len(arrays))()
    for view, array in zip(views, arrays, strict=True):
        view.data, view.type, view.rank = array.ctypes.data, TYPE_CODES[str(array.dtype)], array.ndim
        view.shape[: array.ndim] = array.shape
    return views
