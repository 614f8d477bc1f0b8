"""The yardstick of every comparison, and the random inputs that it is laid to.

The referee of the passes, a library's verification and the tuning of kernels all ask here when two results agree: a
difference that one of them would let through is let through by none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike, NDArray

TOLERANCE = 1e-4  # of an output's range, in float32

Outputs = Mapping[str, NDArray]


def relative_error(got: Outputs, want: Outputs) -> float:
    """The largest |got − want| over the range of each wanted output, over all of them.

    The range is the largest − the smallest finite value, and no less than the largest magnitude: two scores that happen
    to be almost equal are each rounded as a number of their size. Of an output that is 0 throughout it is taken as 1.
    NaN agrees with NaN and an infinity with the same one; what is not finite on one side alone is an infinite error.

    Raises ValueError, which names the output, if names or shapes differ.
    """
    if set(got) != set(want):
        raise ValueError(f"outputs {sorted(want)} became {sorted(got)}")
    return max((_error(name, np.asarray(got[name]), np.asarray(want[name])) for name in want), default=0.0)


def _error(name: str, got: NDArray, want: NDArray) -> float:
    if got.shape != want.shape:
        raise ValueError(f"output {name!r} was {list(want.shape)} and became {list(got.shape)}")
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(want)
    if not (np.array_equal(got[~finite], want[~finite], equal_nan=True) and np.isfinite(got[finite]).all()):
        return np.inf
    if not finite.any():
        return 0.0
    got, want = got[finite], want[finite]
    scale = np.abs(want).max() or 1.0  # dividing first, nothing below overflows but what is an infinite error
    with np.errstate(over="ignore"):
        return float(np.abs(got / scale - want / scale).max() / max(1.0, np.ptp(want / scale)))


def random_input(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: DTypeLike, ids: tuple[int, int] | None
) -> NDArray:
    """A valid input: ids with low ≤ id < high where they index a table, normal numbers, or a mask.

    A mask is what is neither, or has "mask" in its name: on its last axis ones for at least a third, then zeros.
    """
    kind = np.dtype(dtype)
    if ids is not None and kind.kind in "iu":
        return rng.integers(*ids, shape).astype(kind)
    if kind.kind == "f" and "mask" not in name.lower():
        return rng.standard_normal(shape).astype(kind)
    if not shape:
        return np.ones(shape, kind)
    length = shape[-1]
    kept = rng.integers(max(1, length // 3), length + 1, (*shape[:-1], 1))
    return (np.arange(length) < kept).astype(kind)
