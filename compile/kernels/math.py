"""Vectorised elementary functions, as expressions: no call leaves the kernel.

Accuracy is float32's own to within a few units in the last place, far inside what a model notices; tests compare
with float64. Arguments and results are vectors of `lanes` float32.
"""

from __future__ import annotations

import math

from tvm import tirx

from compile.kernels.builder import Expr, bind, broadcast, const

LOG2_E = math.log2(math.e)
# ln 2 in two parts, so that x − n ln 2 loses nothing (Cody and Waite).
LN2_HIGH = 0.693359375
LN2_LOW = math.log(2.0) - LN2_HIGH
# e^r = 1 + Σ c_k r^k with the c_k that make the relative error smallest on |r| ≤ ln 2 / 2: 7e-8 (Remez).
EXP_SERIES = (1.0000001322884862, 0.49999016447393685, 0.1666673480710458, 0.041910424055603954, 0.008337248437029907)


def exp(x: Expr, lanes: int) -> Expr:
    """e^x for x ≤ 88, as 2^n · e^r with |r| ≤ ln 2 / 2 and e^r by a polynomial; 0 below −87.3."""
    # Below this 2^n would not be a normal number; the clamp makes e^x the smallest one, 1e-38.
    x = bind(tirx.max(x, const(-87.3, lanes)))
    n = bind(tirx.nearbyint(x * const(LOG2_E, lanes)))
    r = bind(x - n * const(LN2_HIGH, lanes) - n * const(LN2_LOW, lanes))
    series = const(EXP_SERIES[-1], lanes)
    for coefficient in (*EXP_SERIES[-2::-1], 1.0):
        series = bind(series * r + const(coefficient, lanes))
    int_type = "int32" if lanes == 1 else f"int32x{lanes}"
    bits = (tirx.Cast(int_type, n) + broadcast(tirx.const(127, "int32"), lanes)) << broadcast(
        tirx.const(23, "int32"), lanes
    )
    return series * tirx.reinterpret("float32" if lanes == 1 else f"float32x{lanes}", bits)


def tanh(x: Expr, lanes: int) -> Expr:
    """tanh x = 1 − 2 / (e^{2x} + 1); absolute error below 2e-7."""
    one, two = const(1.0, lanes), const(2.0, lanes)
    clamped = tirx.min(x, const(40.0, lanes))
    return one - two / (exp(clamped * two, lanes) + one)


def erf(x: Expr, lanes: int) -> Expr:
    """erf x by Abramowitz and Stegun 7.1.26; absolute error below 5e-7 (1.5e-7 in exact arithmetic)."""
    zero, one = const(0.0, lanes), const(1.0, lanes)
    magnitude = bind(tirx.max(x, zero - x))
    t = bind(one / (one + const(0.3275911, lanes) * magnitude))
    series = const(1.061405429, lanes)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = bind(series * t + const(coefficient, lanes))
    positive = bind(one - series * t * exp(zero - magnitude * magnitude, lanes))
    return tirx.Select(x < zero, zero - positive, positive)


def gelu(x: Expr, lanes: int) -> Expr:
    """x Φ(x), the definition with erf (Hendrycks and Gimpel)."""
    half, one = const(0.5, lanes), const(1.0, lanes)
    return x * half * (one + erf(x * const(math.sqrt(0.5), lanes), lanes))


def gelu_tanh(x: Expr, lanes: int) -> Expr:
    """The tanh approximation of gelu: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    half, one = const(0.5, lanes), const(1.0, lanes)
    inner = const(math.sqrt(2.0 / math.pi), lanes) * (x + const(0.044715, lanes) * x * x * x)
    return x * half * (one + tanh(bind(inner), lanes))


def relu(x: Expr, lanes: int) -> Expr:
    return tirx.max(x, const(0.0, lanes))


UNARY = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "tanh": tanh}
