"""What a row kernel does to its result before storing it: bias, NoNorm's scale and shift, residual add, activation.

An epilogue is a tuple of steps applied in order to one vector of the result. Vectors ("add_vector", "mul_vector") have
one value a column and are padded to whole panels at compile time; tensors ("add", "mul") have one row a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compile.kernels.builder import Expr, Pointer, opaque
from compile.kernels.contract import Parameter, Signature, tensor, vector
from compile.kernels.math import UNARY

VECTOR_STEPS = ("add_vector", "mul_vector")
TENSOR_STEPS = ("add", "mul")
WORDS = {"add": "+ tensor", "mul": "× tensor", "add_vector": "+ vector", "mul_vector": "× vector"}


@dataclass(frozen=True)
class Operand:
    """A step's operand inside a kernel: a pointer and, for a tensor, its row stride in elements."""

    pointer: Pointer
    stride: Expr | None


def signature(steps: tuple[str, ...], columns: int) -> Signature:
    """The arguments that `steps` need, in order: each step's vector, or its tensor and the tensor's stride."""
    parameters: list[Parameter] = []
    for index, step in enumerate(steps):
        if step in VECTOR_STEPS:
            parameters.append(vector(f"{step}{index}", columns))
        elif step in TENSOR_STEPS:
            parameters += tensor(f"{step}{index}", columns)
    return tuple(parameters)


def operands(steps: tuple[str, ...], arguments: Mapping[str, Any]) -> list[Operand | None]:
    """Each step's operand among a kernel's arguments; None for a function of one argument."""
    names = [f"{step}{index}" for index, step in enumerate(steps)]
    return [Operand(arguments[n], arguments.get(f"ld{n}")) if n in arguments else None for n in names]


def describe(steps: tuple[str, ...]) -> list[str]:
    return [WORDS.get(step, step) for step in steps]


def with_strides(operands: list[Operand | None], strides: Sequence[int]) -> list[Operand | None]:
    """The operands with their tensors' strides, in order, as constants."""
    next_stride = iter(strides)
    return [replace(o, stride=next(next_stride)) if o and o.stride is not None else o for o in operands]


def apply(
    steps: tuple[str, ...],
    operands: list[Operand | None],
    value: Expr,
    row: Expr,
    column: Expr,
    lanes: int,
    functions: Mapping[str, Callable[[Expr, int], Expr]] = UNARY,
) -> Expr:
    plain = True
    for step, operand in zip(steps, operands, strict=True):
        if operand is None:
            value = functions[step](value if plain else opaque(value, lanes), lanes)
            plain = False
            continue
        at = column if operand.stride is None else row * operand.stride + column
        other = operand.pointer.load(at, lanes)
        value = value + other if step in ("add", "add_vector") else value * other
    return value


def store_columns(out: Pointer, at: Expr, vectors: Sequence[Expr], columns: int, lanes: int, spill: Pointer) -> None:
    """Store the first `columns` elements of `vectors` from address `at` on.

    A last vector that is only partly inside the row goes through `spill` (one vector) and is stored element by
    element, so that nothing past the row is written.
    """
    for v, value in enumerate(vectors):
        valid = min(lanes, columns - v * lanes)
        if valid == lanes:
            out.store(at + v * lanes, value, lanes)
            continue
        spill.store(0, value, lanes)
        for j in range(valid):
            out.store(at + v * lanes + j, spill.load(j))
