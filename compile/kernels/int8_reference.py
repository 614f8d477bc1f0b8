"""The int8 scheme, written in numpy: what every int8 kernel computes, bit for bit, on every CPU.

Weights have one scale a column, s_w[n] > 0, and no zero point. Ours lie in [−127, 127]; those of a file that others
quantised may be −128 too. Activations are quantised at run time, each token's row x[K] by itself:

    lo = min(0, min x)    hi = max(0, max x)    r = max(hi − lo, 2^−100)
    inv = 254 / r         s = r · (1 / 254)     1/254 rounded to float32 first
    z = ⌊−lo · inv⌉       q[k] = ⌊x[k] · inv + z⌉

⌊·⌉ rounds the exact value once, ties to even: one fused multiply-add onto 1.5 · 2^23 + z leaves q in the lowest bits of
its result. Because z is rounded from the same product, −½ ≤ lo · inv + z ≤ ½ and hi · inv + z < 254.6: q lies in
[0, 255] and needs no clamp (this is why it is 254 and not 255). Where no element is negative, z = 0. A row of zeros has
q = z = 0. A row with one infinity has s = ∞, q − z = ±1 there and 0 elsewhere: its results are infinities of the sign
that the weight gives, and NaN where that is 0. Another row with NaN or infinities, or whose r overflows, has s = NaN:
its results are NaN, no other row's are.

    c[n] = Σ_k q[k] · w[k, n] − z · Σ_k w[k, n]        exact in int32 for K ≤ 65536
    y[n] = float(c[n]) · s · s_w[n] + b[n]             float(c) · s rounded, then one fused multiply-add

A row whose integers a file has fixed, x = (q − z) · s, comes with lo = −z · s and hi = lo + 254 · s in place of its own
extremes: then the same steps give back q, z and s.

b is the bias; without one, what else is added first (b[t, n] then), or nothing: the last step multiplies. Kernels may
hold q as q − 128 and z as z − 128 (Arm's products are of signed numbers): c is the same integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS = 254  # from a row's least value to its greatest
SMALLEST_RANGE = np.float32(2.0**-100)
MAX_K = 65536


@dataclass(frozen=True)
class QuantizedRows:
    """q: (rows, K) uint8; scale: (rows,) float32, of rows that are not finite ∞ or NaN; zero: (rows,) int32, to 254."""

    q: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero: NDArray[np.int32]

    def dequantized(self) -> NDArray[np.float32]:
        """What the integers stand for."""
        return (self.q.astype(np.int32) - self.zero[:, None]).astype(np.float32) * self.scale[:, None]


def quantize_rows(x: NDArray[np.float32], extremes: NDArray[np.float32] | None = None) -> QuantizedRows:
    """x: (rows, K); extremes: (lo, hi) of every row in place of its own."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(x.max(axis=1, initial=0.0) - x.min(axis=1, initial=0.0))
    safe = np.where(finite[:, None], x, np.float32(0.0))
    low, high = np.minimum(safe.min(axis=1), np.float32(0.0)), np.maximum(safe.max(axis=1), np.float32(0.0))
    if extremes is not None:
        low, high = (np.full_like(low, value) for value in extremes)
    span = np.maximum(high - low, SMALLEST_RANGE)
    inverse = np.float32(STEPS) / span
    scale = np.where(finite, span * np.float32(1.0 / STEPS), np.float32(np.nan))
    zero = _round_fma(-low, inverse, np.zeros_like(low, np.int64))
    q = _round_fma(safe, inverse[:, None], zero[:, None])
    if extremes is None:
        one = (np.isinf(x).sum(axis=1) == 1) & ~np.isnan(x).any(axis=1)
        q[one], scale[one], zero[one] = 1 + np.where(np.isinf(x), np.sign(x), 0)[one], np.inf, 1
    return QuantizedRows(q.astype(np.uint8), scale, zero.astype(np.int32))


def static_extremes(scale: float, zero: int) -> NDArray[np.float32]:
    """(lo, hi) of rows x = (q − zero) · scale, q and zero from 0 to 255."""
    return (np.array([0.0, STEPS]) - zero).astype(np.float32) * np.float32(scale)


def linear(
    x: NDArray[np.float32],
    weight: NDArray[np.int8],
    weight_scale: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    extremes: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """(rows, K) × (K, N) with weight_scale (N,) and bias (N,) or (rows, N) -> (rows, N); extremes: of every row."""
    rows = quantize_rows(x, extremes)
    total = rows.q.astype(np.int64) @ weight.astype(np.int64)
    total -= rows.zero[:, None] * weight.astype(np.int64).sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 · ∞
        scaled = total.astype(np.float32) * rows.scale[:, None]
        return scaled * weight_scale if bias is None else fma(scaled, weight_scale, bias)


def fma(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.float32]:
    """a · b + c, rounded once to float32.

    The product is exact in float64. The sum is rounded there to odd: then the second rounding, to float32, is right.
    """
    product, addend = a.astype(np.float64) * b, np.broadcast_to(c, np.broadcast_shapes(a.shape, b.shape, c.shape))
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64)
    inexact_and_even = (error != 0) & np.isfinite(total) & (bits & 1 == 0)
    odd = bits + np.where((error > 0) == (total > 0), 1, -1)
    return np.where(inexact_and_even, odd, bits).view(np.float64).astype(np.float32)


def _round_fma(a: NDArray[np.float32], b: NDArray[np.float32], whole: NDArray[np.int64]) -> NDArray[np.int64]:
    """a · b + whole, rounded once to a whole number, ties to even; |a · b| is at most a few hundred."""
    product = a.astype(np.float64) * b  # exact
    nearest = np.rint(product)
    tie_to_odd = (np.abs(product - nearest) == 0.5) & ((nearest.astype(np.int64) + whole) % 2 == 1)
    return (nearest + np.where(tie_to_odd, 2 * (product - nearest), 0)).astype(np.int64) + whole
