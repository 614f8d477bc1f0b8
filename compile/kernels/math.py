"""Vectorised elementary functions, as expressions: no call leaves the kernel.

Accuracy is float32's own to within a few units in the last place, far inside what a model notices; tests compare
with float64. Arguments and results are vectors of `lanes` float32. Not-a-number in is not-a-number out, everywhere.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from tvm import tirx

from compile.kernels.builder import Expr, bind, broadcast, const
from compile.targets import NEON

LOG2_E = math.log2(math.e)
# ln 2 in two parts, so that x − n ln 2 loses nothing (Cody and Waite).
LN2_HIGH = 0.693359375
LN2_LOW = math.log(2.0) - LN2_HIGH
# e^r = 1 + r + Σ c_k r^k with the c_k that make the relative error smallest on |r| ≤ ln 2 / 2: 1.05e-7 (Remez).
EXP_SERIES = (0.4999923179159743, 0.16667114465391722, 0.04189011315043969, 0.008312524863321114)
# Added to a number of moderate size this leaves it rounded to a whole number, plus 127, in the lowest bits.
ROUND = 1.5 * 2.0**23 + 127
ROUND_BITS = struct.unpack("<i", struct.pack("<f", ROUND))[0]


def at_least(bound: float, x: Expr, lanes: int) -> Expr:
    """max(bound, x); not-a-number where x is."""
    return _bounded("maximum", tirx.max, bound, x, lanes)


def at_most(bound: float, x: Expr, lanes: int) -> Expr:
    """min(bound, x); not-a-number where x is."""
    return _bounded("minimum", tirx.min, bound, x, lanes)


def _bounded(intrinsic: str, compare: Any, bound: float, x: Expr, lanes: int) -> Expr:
    """One instruction on each instruction set: max and min are their second operand where the two do not compare,
    as x86's are; Arm's fmax and fmin are LLVM's maximum and minimum, while compare and select would be two.
    """
    if lanes == NEON.lanes:
        return tirx.call_llvm_pure_intrin(f"float32x{lanes}", f"llvm.{intrinsic}", const(bound, lanes), x)
    return compare(const(bound, lanes), x)


def exp(x: Expr, lanes: int) -> Expr:
    """e^x for x ≤ 88, as 2^n · e^r with |r| ≤ ln 2 / 2 and e^r by a polynomial; 0 below −87.7."""
    # Here n is −127, whose bits as an exponent are those of 0.
    x = bind(at_least(-88.0, x, lanes))
    int_type, float_type = ("int32", "float32") if lanes == 1 else (f"int32x{lanes}", f"float32x{lanes}")
    rounded = bind(x * const(LOG2_E, lanes) + const(ROUND, lanes))
    # As its bits, because TVM takes (a + b) − b for a.
    shift = tirx.reinterpret(float_type, broadcast(tirx.const(ROUND_BITS, "int32"), lanes))
    n = bind(rounded - shift)
    r = bind(x - n * const(LN2_HIGH, lanes) - n * const(LN2_LOW, lanes))
    # In pairs: a multiply-add that overwrites its summand needs no copy of a constant then.
    c2, c3, c4, c5 = (const(c, lanes) for c in EXP_SERIES)
    square = bind(r * r)
    tail = bind((c2 + c3 * r) + square * (c4 + c5 * r))
    exponent = tirx.reinterpret(int_type, rounded) << broadcast(tirx.const(23, "int32"), lanes)
    power = bind(tirx.reinterpret(float_type, exponent))
    return power + power * (r + square * tail)


def tanh(x: Expr, lanes: int) -> Expr:
    """tanh x = 1 − 2 / (e^{2x} + 1); absolute error below 2e-7."""
    one, two = const(1.0, lanes), const(2.0, lanes)
    clamped = at_most(40.0, x, lanes)
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
    return at_least(0.0, x, lanes)


UNARY = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "tanh": tanh}
