"""What epilogues compute, in float64: the judge of kernels that are tuned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.kernels.contract import Arrays, pack_vector
from compile.kernels.epilogue import TENSOR_STEPS, VECTOR_STEPS

_erf = np.vectorize(math.erf, otypes=[np.float64])
UNARY: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "is_nonzero": lambda x: np.where(x == 0, 0.0, 1.0),
    "is_zero": lambda x: np.where(x == 0, 1.0, 0.0),
    "log_is_nonzero": lambda x: np.where(x == 0, -np.inf, 0.0),
    "log_is_zero": lambda x: np.where(x == 0, 0.0, -np.inf),
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
}


def normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


def epilogue(
    steps: tuple[str, ...], value: NDArray[np.float64], operands: Arrays, rng: np.random.Generator
) -> NDArray[np.float64]:
    """`value` (rows, N) after `steps`, whose random operands are added to `operands`."""
    rows, columns = value.shape
    for index, step in enumerate(steps):
        other: NDArray[Any]
        if step in VECTOR_STEPS:
            other = normal(rng, columns)
            operands[f"{step}{index}"] = pack_vector(other)
        elif step in TENSOR_STEPS:
            other = operands[f"{step}{index}"] = normal(rng, rows, columns)
        else:
            value = UNARY[step](value)
            continue
        value = value + other if step in ("add", "add_vector") else value * other
    return value
