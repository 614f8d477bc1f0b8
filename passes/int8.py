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
SILENT = 200.0  # decibels
TINY = float(np.finfo(np.float32).tiny)


def quantize_channels(values: NDArray[np.floating], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix as int8 and float32 scales, one for each slice along `axis`; a slice of zeros has scale 1."""
    largest = np.abs(values).max(axis=1 - axis).astype(np.float32)
    scales = np.where(largest > 0, largest / np.float32(LEVELS), np.float32(1))
    steps = np.rint(values / np.expand_dims(scales, 1 - axis))
    return np.clip(steps, -LEVELS, LEVELS).astype(np.int8), scales


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
