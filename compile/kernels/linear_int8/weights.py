"""Weights as the kernels read them, one copy for all CPUs of an architecture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compile.kernels.contract import Arrays, pack_vector
from compile.kernels.int8_rows import padded_depth

PANEL = 16  # columns


def pack_int8(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """(K, N) row-major -> [N/16][K/4][16][4], zeros beyond N and K."""
    k, n = weight.shape
    panels, depth = -(-n // PANEL), padded_depth(k)
    padded = np.zeros((depth, panels * PANEL), np.int8)
    padded[:k, :n] = weight
    return np.ascontiguousarray(padded.reshape(depth // 4, 4, panels, PANEL).transpose(2, 0, 3, 1))


def overflows_in_pairs(weight: NDArray[np.int8]) -> bool:
    """Whether a column of (K, N) has −128 at k and k + 4 of the same eight, which `mull` multiplies side by side."""
    k, n = weight.shape
    lowest = np.zeros((padded_depth(k), n), np.bool_)
    lowest[:k] = weight == -128
    return bool(lowest.reshape(-1, 2, 4, n).all(axis=1).any())


def weight_operands(weight: NDArray[np.int8], scales: NDArray[np.float32]) -> Arrays:
    """A kernel's w, scales and sums, from (K, N) and (N,)."""
    sums = -weight.sum(axis=0, dtype=np.int32)
    return {"w": pack_int8(weight), "scales": pack_vector(scales), "sums": pack_vector(sums)}
