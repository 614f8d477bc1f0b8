"""exp, tanh, gelu and relu as the kernels compute them, against float64 over the whole range of float32."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from compile.cpus import Isa
from compile.kernels import math as elementary
from compile.kernels.builder import Kernel, loop
from compile.kernels.reference import UNARY

COUNT = 1 << 16
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Elementwise:
    """y = f(x) for COUNT values, a vector or one element at a time. Arguments in C: x, y."""

    function: str
    lanes: int
    isa: Isa

    @property
    def name(self) -> str:
        return f"test_{self.function}_{self.lanes}_{self.isa.name}"

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            x, y = kernel.pointer("x"), kernel.pointer("y")
            kernel.begin()
            with loop(COUNT // self.lanes) as i:
                value = getattr(elementary, self.function)(x.load(i * self.lanes, self.lanes), self.lanes)
                y.store(i * self.lanes, value, self.lanes)
        return kernel.func


FUNCTIONS = ("exp", "tanh", "gelu", "gelu_coarse", "gelu_tanh", "relu")


@pytest.fixture(scope="module")
def call(isa: Isa, link_kernels: Callable) -> Callable[..., None]:
    return link_kernels([Elementwise(f, lanes, isa) for f in FUNCTIONS for lanes in (1, isa.lanes)])


@pytest.fixture(scope="module")
def evaluate(isa: Isa, call: Callable) -> Callable[[str, np.ndarray], np.ndarray]:
    def run(function: str, x: np.ndarray) -> np.ndarray:
        vector, scalar = (np.full(COUNT, np.nan, np.float32) for _ in range(2))
        call(Elementwise(function, isa.lanes, isa), x, vector)
        call(Elementwise(function, 1, isa), x, scalar)
        assert np.abs(vector - scalar).max() <= 3e-7 * max(1.0, float(np.abs(scalar).max()))
        return vector

    return run


def spread(low: float, high: float, seed: int = 0) -> np.ndarray:
    """Even steps, values on either side of 0 down to the smallest, and the ends."""
    rng = np.random.default_rng(seed)
    small = rng.choice([-1.0, 1.0], COUNT // 4) * 10.0 ** rng.uniform(-37, 0, COUNT // 4)
    x = np.concatenate([np.linspace(low, high, COUNT - small.size), np.clip(small, low, high)]).astype(np.float32)
    return np.clip(x, np.float32(low), np.float32(high))


def test_exp_to_the_last_bits(evaluate: Callable) -> None:
    x = spread(-87.0, 88.0)
    got, want = evaluate("exp", x), np.exp(x.astype(np.float64))
    assert np.abs(got / want - 1).max() <= 4e-7


@pytest.mark.parametrize("low", [-1e4, -3e38])
def test_exp_of_what_is_masked_is_nothing(low: float, evaluate: Callable) -> None:
    got = evaluate("exp", spread(low, -87.4))
    assert got.min() >= 0
    assert got.max() <= 2 * TINY


@pytest.mark.parametrize("reach", [1.0, 20.0, 3e38])
def test_tanh(reach: float, evaluate: Callable) -> None:
    x = spread(-reach, reach)
    assert np.abs(evaluate("tanh", x) - np.tanh(x.astype(np.float64))).max() <= 3e-7


@pytest.mark.parametrize(("function", "bound"), [("gelu", 4e-7), ("gelu_coarse", 2.5e-5)])
@pytest.mark.parametrize("reach", [1.0, 9.0, 1e4])
def test_gelu(function: str, bound: float, reach: float, evaluate: Callable, float64_gelu: Callable) -> None:
    x = spread(-reach, reach)
    error = np.abs(evaluate(function, x) - float64_gelu(x))
    assert np.all(error <= bound * np.maximum(1, np.abs(x)))


@pytest.mark.parametrize("function", ["gelu", "gelu_coarse"])
def test_gelu_of_what_is_far_from_zero_is_exact(function: str, evaluate: Callable) -> None:
    x = spread(5.1, 3e38)
    assert np.array_equal(evaluate(function, x), x)
    assert not evaluate(function, -x).any()


@pytest.mark.parametrize("reach", [1.0, 9.0, 1e4])
def test_gelu_by_tanh(reach: float, evaluate: Callable) -> None:
    x = spread(-reach, reach)
    wide = x.astype(np.float64)
    want = 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    assert np.all(np.abs(evaluate("gelu_tanh", x) - want) <= 4e-7 * np.maximum(1, np.abs(x)))


def test_relu_is_exact(evaluate: Callable) -> None:
    x = spread(-1e30, 1e30)
    assert np.array_equal(evaluate("relu", x), np.maximum(x, 0))


SPECIAL = [np.nan, -np.inf, -3e38, -1e30, -104.0, -88.0, -87.0, -0.0, 0.0, 1e-40]
# Not for exp, whose argument is at most 88 wherever it is used.
LARGE = [np.inf, 3e38, 1e30, 89.0]
REFERENCE = {**UNARY, "exp": np.exp, "gelu_coarse": UNARY["gelu"]}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_not_a_number_and_infinity_in_any_lane(function: str, isa: Isa, call: Callable) -> None:
    special = SPECIAL + ([] if function == "exp" else LARGE)
    x = np.random.default_rng(0).choice([*special, 0.5, -1.5], COUNT).astype(np.float32)
    want = REFERENCE[function](x.astype(np.float64)).astype(np.float32)
    finite, bound = np.isfinite(want), 2.5e-5 if function == "gelu_coarse" else 2e-6
    for lanes in (1, isa.lanes):
        y = np.zeros(COUNT, np.float32)
        call(Elementwise(function, lanes, isa), x, y)
        assert np.array_equal(y[~finite], want[~finite], equal_nan=True)
        assert np.all(np.abs(y[finite] - want[finite]) <= bound * np.maximum(1, np.abs(want[finite])))
