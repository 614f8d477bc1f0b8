"""Vectorised elementary functions, as expressions: no call leaves the kernel.

Accuracy is float32's own to within a few units in the last place, far inside what a model notices; tests compare
with float64. Arguments and results are vectors of `lanes` float32. Not-a-number in is not-a-number out, everywhere.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from tvm import tirx

from compile.cpus import NEON
from compile.kernels.builder import Expr, bind, broadcast, const

LOG2_E = math.log2(math.e)
# ln 2 in two parts, so that x − n ln 2 loses nothing (Cody and Waite).
LN2_HIGH = 0.693359375
LN2_LOW = math.log(2.0) - LN2_HIGH
# e^r = 1 + r + Σ c_k r^k with the c_k that make the relative error smallest on |r| ≤ ln 2 / 2: 1.05e-7 (Remez).
EXP_SERIES = (0.4999923179159743, 0.16667114465391722, 0.04189011315043969, 0.008312524863321114)
# Φ for `gelu` and `gelu_coarse`.
GELU_REACH, COARSE_GELU_REACH = 5.0, 4.1
GELU_SERIES = (
    0.141363787,
    -0.0702963613,
    0.0515206744,
    -0.0404404633,
    0.0314392041,
    -0.0232841161,
    0.016421129,
    -0.0111199277,
    0.00635938305,
    -0.00274027679,
    0.00178348392,
    -0.00158916679,
    0.000582620778,
)
COARSE_GELU_SERIES = (
    0.171812381,
    -0.0829563092,
    0.0562077018,
    -0.0375760548,
    0.022216173,
    -0.0139982451,
    0.0101074597,
    -0.00387282353,
)
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


def gelu(x: Expr, lanes: int, series: tuple[float, ...] = GELU_SERIES, reach: float = GELU_REACH) -> Expr:
    """x Φ(x), the definition (Hendrycks and Gimpel); absolute error below 3e-7 · max(1, |x|).

    Φ(x) = ½ + x P(x²) is 0 or 1 to within the error where |x| ≥ reach; P is a polynomial in what x² becomes when
    [0, reach²] is mapped to [−1, 1], with the coefficients that make the greatest error least.
    """
    square = at_most(reach**2, bind(x * x), lanes)
    t = bind(square * const(2.0 / reach**2, lanes) - const(1.0, lanes))
    polynomial = const(series[-1], lanes)
    for coefficient in reversed(series[:-1]):
        polynomial = bind(polynomial * t + const(coefficient, lanes))
    phi = bind(x * polynomial + const(0.5, lanes))
    return x * at_least(0.0, bind(at_most(1.0, phi, lanes)), lanes)


def gelu_coarse(x: Expr, lanes: int) -> Expr:
    """gelu for what is rounded to 8 bits next: absolute error below 2.5e-5 · max(1, |x|), in five steps fewer."""
    return gelu(x, lanes, COARSE_GELU_SERIES, COARSE_GELU_REACH)


def gelu_tanh(x: Expr, lanes: int) -> Expr:
    """The tanh approximation of gelu: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    half, one = const(0.5, lanes), const(1.0, lanes)
    inner = const(math.sqrt(2.0 / math.pi), lanes) * (x + const(0.044715, lanes) * x * x * x)
    return x * half * (one + tanh(bind(inner), lanes))


def choose(if_zero: float, otherwise: float) -> Callable[[Expr, int], Expr]:
    """What an integer that is a truth value (0: false) is replaced by."""
    return lambda x, lanes: tirx.Select(tirx.EQ(x, const(0.0, lanes)), const(if_zero, lanes), const(otherwise, lanes))


def sigmoid(x: Expr, lanes: int) -> Expr:
    """1 / (1 + e^{−x}); 0 below −88."""
    zero, one = const(0.0, lanes), const(1.0, lanes)
    y = bind(one / (one + exp(bind(at_most(88.0, bind(zero - x), lanes)), lanes)))
    return tirx.Select(x < const(-88.0, lanes), zero, y)


def silu(x: Expr, lanes: int) -> Expr:
    """x · sigmoid(x)."""
    return x * sigmoid(x, lanes)


def relu(x: Expr, lanes: int) -> Expr:
    return at_least(0.0, x, lanes)


UNARY = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "silu": silu,
    # Masks: the last two are the logarithms of the first two.
    "is_nonzero": choose(0.0, 1.0),
    "is_zero": choose(1.0, 0.0),
    "log_is_nonzero": choose(-math.inf, 0.0),
    "log_is_zero": choose(0.0, -math.inf),
}
COARSE_UNARY = {**UNARY, "gelu": gelu_coarse}


def number_or(a: Expr, b: Expr, pick: Callable[[Expr, Expr], Expr]) -> Expr:
    """What is not a number stays one, whichever side it is on."""
    return tirx.Select(tirx.isnan(a), a, tirx.Select(tirx.isnan(b), b, pick(a, b)))
