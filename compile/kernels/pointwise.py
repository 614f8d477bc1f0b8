"""Element-wise arithmetic that no epilogue has, a row a token: comparisons, choices, numbers of several types.

Generic kernels compute the same one operator at a time, over all rows that were compiled; this one takes a tree of
operators, the rows that it is given, and operands that are broadcast: a row for all tokens, a number for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from compile.cpus import Isa
from compile.kernels.builder import Expr, Kernel, Pointer, bind, const, loop
from compile.kernels.contract import ROW_COUNT, TOKEN_COUNT, TOKENS, KernelSpec, Parameter, Signature, tensor
from compile.kernels.math import UNARY, exp, number_or, sigmoid

# ("operand", index), ("number", value, type), or (operator, type of the result, arguments …)
Expression = tuple[Any, ...]


@dataclass(frozen=True)
class Source:
    """An operand. by_row: it has a row a token; strides: elements between neighbours along each column dimension."""

    dtype: str
    by_row: bool
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Pointwise(KernelSpec):
    """y = expression of the operands, for each row and each element of `columns` (TOKENS: one a token).

    Arguments in C: each operand x0 …, with its stride if it has a row a token, y, ldy, tokens if there is a column a
    token, rows.
    """

    columns: tuple[int, ...]
    expression: Expression
    sources: tuple[Source, ...]
    dtype: str
    isa: Isa

    family = "pointwise"

    @property
    def name(self) -> str:
        key = hashlib.sha256(repr((self.columns, self.expression, self.sources, self.dtype)).encode()).hexdigest()[:8]
        return f"pointwise_{'_'.join(self.operators[:4]) or 'copy'}_{key}_{self.isa.name}"

    @property
    def operators(self) -> list[str]:
        """From the last to the first."""

        def of(expression: Expression) -> list[str]:
            if expression[0] in ("operand", "number"):
                return []
            return [expression[0].removeprefix("nn."), *(name for part in expression[2:] for name in of(part))]

        return of(self.expression)

    def signature(self) -> Signature:
        parameters: list[Parameter] = []
        for index, source in enumerate(self.sources):
            if source.by_row:
                parameters += tensor(f"x{index}", self.width(source.strides), dtype=source.dtype)
            else:
                parameters.append(Parameter(f"x{index}", "whole", dtype=source.dtype))
        y = tensor("y", self.width(), written=True, dtype=self.dtype)
        return (*parameters, *y, *[TOKEN_COUNT] * (TOKENS in self.columns), ROW_COUNT)

    def width(self, strides: tuple[int, ...] | None = None) -> int:
        """Elements in a row: of y, or of an operand with those strides."""
        if TOKENS in self.columns:
            return TOKENS
        size = 1
        for index, extent in enumerate(self.columns):
            size *= extent if strides is None or strides[index] else 1
        return size

    def describe(self) -> str:
        return f"element-wise {', '.join(reversed(self.operators))}" if self.operators else f"copy {self.dtype}"

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            arguments = kernel.arguments(self.signature())
            operands = [
                (s, arguments[f"x{i}"], arguments.get(f"ldx{i}"), self.columns[-1]) for i, s in enumerate(self.sources)
            ]
            y, ldy = arguments["y"], arguments["ldy"]
            extents = [arguments["tokens"] if extent == TOKENS else extent for extent in self.columns]
            with loop(arguments["rows"]) as row:

                def over(at: list[Expr]) -> None:
                    depth = len(at)
                    if depth < len(extents) - 1:
                        with loop(extents[depth]) as index:
                            over([*at, index])
                        return
                    vectors = extents[-1] // self.isa.lanes if self.in_vectors() else 0
                    if vectors:
                        with loop(vectors) as v:
                            store([*at, v * self.isa.lanes], self.isa.lanes)
                    with loop(extents[-1] - vectors * self.isa.lanes) as index:
                        store([*at, vectors * self.isa.lanes + index], 1)

                def store(at: list[Expr], width: int) -> None:
                    flat: Expr = 0
                    for index, extent in zip(at, extents, strict=True):
                        flat = flat * extent + index
                    value = _evaluate(self.expression, operands, row, at, width)
                    y.store(row * ldy + flat, value, width)

                over([])
        return kernel.func

    def in_vectors(self) -> bool:
        types = {self.dtype, *(source.dtype for source in self.sources), *_types(self.expression)}
        steps = {source.strides[-1] for source in self.sources}
        halves = self.columns[-1] // 2 % self.isa.lanes == 0 or "rotate" not in self.operators
        return halves and self.columns[-1] >= self.isa.lanes and types <= {"float32"} and steps <= {0, 1}


def _types(expression: Expression) -> list[str]:
    if expression[0] == "operand":
        return []
    if expression[0] == "number":
        return [expression[2]]
    return [expression[1], *(kind for part in expression[2:] for kind in _types(part))]


def _evaluate(
    expression: Expression, operands: list[tuple[Source, Pointer, Expr, int]], row: Expr, at: list[Expr], lanes: int
) -> Expr:
    kind, *rest = expression
    if kind == "number":
        value, dtype = rest
        number = tirx.const(value, dtype)
        return number if lanes == 1 else tirx.Broadcast(number, lanes)
    if kind == "operand":
        return _loaded(operands[rest[0]], row, at, lanes)
    dtype, *parts = rest
    if kind in MOVES:
        return MOVES[kind](operands[parts[0][1]], row, at, lanes)
    values = [bind(_evaluate(part, operands, row, at, lanes)) for part in parts]
    of_type = _type_of(parts[0], operands)
    if kind == "astype":
        if of_type == dtype:
            return values[0]
        if dtype == "bool":
            return tirx.NE(values[0], tirx.const(0, of_type))
        return tirx.Cast(dtype, values[0])
    if kind in FUNCTIONS:
        return FUNCTIONS[kind](*values, lanes)
    if kind in EXTREMES and of_type == "float32":
        return number_or(values[0], values[1], EXTREMES[kind])
    return OPERATORS[kind](*values)


def _loaded(operand: tuple[Source, Pointer, Expr, int], row: Expr, at: list[Expr], lanes: int) -> Expr:
    source, pointer, stride, _ = operand
    index: Expr = row * stride if source.by_row else 0
    for position, step in zip(at, source.strides, strict=True):
        if step:
            index = index + position * step
    loaded = pointer.load(index, lanes if source.strides[-1] else 1)
    return tirx.Broadcast(loaded, lanes) if lanes > 1 and not source.strides[-1] else loaded


def _rotated(operand: tuple[Source, Pointer, Expr, int], row: Expr, at: list[Expr], lanes: int) -> Expr:
    """−x₂ in the first half of a row's last dimension, x₁ in the second."""
    half = operand[3] // 2
    first = at[-1] < half
    value = _loaded(operand, row, [*at[:-1], tirx.Select(first, at[-1] + half, at[-1] - half)], lanes)
    sign = tirx.Select(first, const(-1.0), const(1.0))
    return value * (tirx.Broadcast(sign, lanes) if lanes > 1 else sign)


def _swapped(operand: tuple[Source, Pointer, Expr, int], row: Expr, at: list[Expr], lanes: int) -> Expr:
    """Each two neighbours of a row's last dimension in the other order."""
    if lanes > 1:
        return tirx.Shuffle([_loaded(operand, row, at, lanes)], [lane ^ 1 for lane in range(lanes)])
    is_first = tirx.EQ(at[-1] % 2, 0)
    return _loaded(operand, row, [*at[:-1], tirx.Select(is_first, at[-1] + 1, at[-1] - 1)], lanes)


MOVES = {"rotate": _rotated, "swap": _swapped}


def _type_of(expression: Expression, operands: list[tuple[Source, Pointer, Expr, int]]) -> str:
    if expression[0] == "operand":
        return operands[expression[1]][0].dtype
    return str(expression[2] if expression[0] == "number" else expression[1])


def _whole_exp(x: Expr, lanes: int) -> Expr:
    """e^x for every x."""
    largest, infinity = const(88.0, lanes), const(float("inf"), lanes)
    inside = bind(exp(tirx.Select(x > largest, largest, x), lanes))
    # From e^88 on up to the greatest number there is a way in two factors.
    rest = bind(exp(tirx.Select(x > largest, tirx.min(x - largest, const(1.0, lanes)), const(0.0, lanes)), lanes))
    return tirx.Select(x > const(88.7228, lanes), infinity, inside * rest)


# Relax's operators: with lanes, as they need them, and without.
FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "exp": _whole_exp,
    "sigmoid": sigmoid,
    "tanh": UNARY["tanh"],
    "nn.relu": UNARY["relu"],
    "nn.gelu": UNARY["gelu"],
    "nn.gelu_tanh": UNARY["gelu_tanh"],
    "nn.silu": UNARY["silu"],
    "rsqrt": lambda x, lanes: const(1.0, lanes) / tirx.sqrt(x),
}
OPERATORS: dict[str, Callable[..., Expr]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": tirx.max,
    "minimum": tirx.min,
    "negative": lambda a: -a,
    "sqrt": tirx.sqrt,
    "equal": lambda a, b: tirx.EQ(a, b),
    "not_equal": lambda a, b: tirx.NE(a, b),
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "logical_and": lambda a, b: tirx.And(a, b),
    "logical_or": lambda a, b: tirx.Or(a, b),
    "logical_not": lambda a: tirx.Not(a),
    "isnan": tirx.isnan,
    "where": lambda c, a, b: tirx.Select(c, a, b),
}
EXTREMES = {"maximum": tirx.max, "minimum": tirx.min}
NAMES = frozenset({*FUNCTIONS, *OPERATORS, "astype"})
