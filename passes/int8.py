"""The int8 scheme in numpy: what a weight and a row of activations become, and how much that costs.

weight       s_n = max_k |W_kn| / 127             Ŵ_kn = s_n · clip(round(W_kn / s_n), −127, 127)
activations  s_t = (max(x_t, 0) − min(x_t, 0)) / 254, found at run time, with a zero point, for each token
linear       y = x̂ Ŵ + b in exact integer sums, b and all else in float32
table        a row is to a table what an output channel is to a linear
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = 127  # of a symmetric int8: −128 is not used, so that −w exists for every w
DAMPING = 0.1  # λ over the mean of the diagonal: samples are few
BLOCK = 128  # rows of W after which the rest is corrected at once
SILENT = 200.0  # decibels
TINY = float(np.finfo(np.float32).tiny)


def quantize_channels(values: NDArray[np.floating], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix as int8 and float32 scales, one for each slice along `axis`; a slice of zeros has scale 1."""
    largest = np.abs(values).max(axis=1 - axis).astype(np.float32)
    scales = np.where(largest > 0, largest / np.float32(LEVELS), np.float32(1))
    steps = np.rint(values / np.expand_dims(scales, 1 - axis))
    return np.clip(steps, -LEVELS, LEVELS).astype(np.int8), scales


def compensate(values: NDArray[np.floating], scales: NDArray[np.float32], x: NDArray[np.floating]) -> NDArray[np.int8]:
    """W [K, N] in steps of `scales`, each rounded so that x W suffers least on the samples x [rows, K].

    What row k of W loses to rounding is made good in the rows after it (Frantar et al. 2023, "OPTQ"): with U the upper
    Cholesky factor of (x̂ᵀx̂ + λI)⁻¹, W_j −= U_kj / U_kk (W_k − Ŵ_k) for all j > k.
    """
    rounded, weights = round_rows(x), values.astype(np.float64)
    gram = rounded.T @ rounded
    ridge = DAMPING * np.trace(gram) / len(gram) or 1.0
    upper = np.linalg.cholesky(np.linalg.inv(gram + ridge * np.eye(len(gram)))).T
    steps = np.empty(values.shape, np.int8)
    for start in range(0, len(weights), BLOCK):
        block, factors = weights[start : start + BLOCK], upper[start : start + BLOCK]
        errors = np.empty_like(block)
        for k in range(len(block)):
            steps[start + k] = np.clip(np.rint(block[k] / scales), -LEVELS, LEVELS)
            errors[k] = (block[k] - steps[start + k] * scales.astype(np.float64)) / factors[k, start + k]
            block[k + 1 :] -= np.outer(factors[k, start + k + 1 : start + len(block)], errors[k])
        weights[start + len(block) :] -= factors[:, start + len(block) :].T @ errors
    return steps


def dequantize(quantized: NDArray[np.int8], scales: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """What DequantizeLinear makes of them."""
    return quantized.astype(np.float32) * np.expand_dims(scales, 1 - axis)


def round_rows(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Activations [rows, channels] as the linear sees them, dequantised."""
    low, high = np.minimum(rows.min(-1, keepdims=True), 0), np.maximum(rows.max(-1, keepdims=True), 0)
    scale = np.where(high > low, (high.astype(np.float64) - low) / 254, 1.0)
    zero = np.rint(-low / scale)
    return (np.rint(rows / scale + zero) - zero) * scale


def unusable(values: NDArray[np.floating], axis: int) -> str:
    """Why a matrix cannot be int8 with float32 scales; empty where it can."""
    if not np.isfinite(values).all():
        return "weights with NaN or infinity"
    largest = np.abs(values).max(axis=1 - axis)
    if (largest[largest > 0] / LEVELS < TINY).any():
        return "weights so small that a scale underflows"
    return ""


def output_snr(x: NDArray[np.floating], exact: NDArray[np.floating], rounded: NDArray[np.floating]) -> float:
    """The signal-to-noise ratio of x W by the scheme, in decibels: x [rows, K] and both weights [K, N]."""
    y = x.astype(np.float64) @ exact
    return decibels(y, y - round_rows(x) @ rounded.astype(np.float64))


def decibels(signal: NDArray[np.floating], error: NDArray[np.floating]) -> float:
    """10 log₁₀ ‖signal‖² / ‖error‖²; within ±SILENT, which also stands for no error and for one not finite."""
    power, noise = float(np.square(signal, dtype=np.float64).sum()), float(np.square(error, dtype=np.float64).sum())
    if noise == 0:
        return SILENT
    if power == 0 or not np.isfinite(power + noise):
        return -SILENT
    return float(np.clip(10 * np.log10(power / noise), -SILENT, SILENT))
