"""Element-wise chains: what a kernel can do to its result while that is still in registers.

Exporters write a linear layer as a product and then one operator for its bias, one for the residual, one for each half
of a NoNorm, one for the activation. `find_chain` follows them up from the last to the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.importer.graph import Node, scalar
from compile.lowering.patterns import RESHAPES, as_vector, constant_of, match_activation

# Whether a tensor has to be in memory in any case: it is an output, or is there already.
Kept = Callable[[Node], bool]

# Steps in one kernel, and operators that are looked through for a product: what is longer becomes several kernels, so
# that a graph's compile time grows with its size and no faster.
MOST_STEPS = 16
SIGHT = 64

UNARY_OPERATORS = {
    "nn.relu": "relu", "nn.gelu": "gelu", "nn.gelu_tanh": "gelu_tanh", "tanh": "tanh", "sigmoid": "sigmoid",
    "nn.silu": "silu",
}  # fmt: skip


@dataclass
class Chain:
    """Element-wise steps found on the way up from a tensor to `source`, which a kernel computes or loads."""

    source: Node
    steps: list[str] = field(default_factory=list)
    operands: list[Any] = field(default_factory=list)  # a vector, a Node, or None; one per step
    computes: bool = False  # whether the kernel computes `source` too, rather than loading it
    casts: bool = False  # whether `source` holds integers that the kernel turns into float32


def find_chain(node: Node, kept: Kept) -> Chain:
    """Follow single-use element-wise operators up from `node`."""
    chain = Chain(node)
    columns = node.shape[-1] if node.shape else 1
    current, readers = node, 1
    while len(chain.steps) < MOST_STEPS and (current is node or _absorbable(current, kept, readers)):
        step = _step(current, columns, kept)
        if step is None:
            break
        steps, current_inputs = step
        chain.steps[:0] = [name for name, _ in steps]
        chain.operands[:0] = [operand for _, operand in steps]
        spelt = steps[0][0] in ("gelu", "silu") and current.op == "multiply"
        current = current_inputs
        readers = 2 if spelt else 1  # an activation that is spelt out reads its argument twice
        while _absorbable(current, kept, readers) and current.op in RESHAPES and _same_row(current, node):
            current, readers = current.inputs[0], 1
    chain.source = current
    if (choice := _choice(current)) and (current is node or _absorbable(current, kept, readers)):
        steps, chain.source = choice
        chain.casts = True
        chain.steps[:0] = [name for name, _ in steps]
        chain.operands[:0] = [None if value is None else np.full(columns, value, np.float32) for _, value in steps]
        return chain
    if current.op == "astype" and current.inputs[0].dtype == "int64" and current.dtype == "float32":
        if current is node or _absorbable(current, kept, readers):
            chain.source, chain.casts = current.inputs[0], True
        return chain
    chain.computes = _computable(current) and (current is node or _absorbable(current, kept, readers))
    return chain


def _choice(node: Node) -> tuple[list[tuple[str, float | None]], Node] | None:
    """where(x ≠ 0, a, b) of int64 x and two numbers, as exporters make masks: epilogue steps on float(x), and x."""
    if node.op != "where" or node.dtype != "float32":
        return None
    test, a, b = node.inputs[0], scalar(node.inputs[1]), scalar(node.inputs[2])
    while test.op in (*RESHAPES, "logical_not"):
        if test.op == "logical_not":
            a, b = b, a
        test = test.inputs[0]
    if a is None or b is None or test.op != "astype" or test.inputs[0].dtype != "int64":
        return None
    if math.prod(test.shape) != math.prod(node.shape):
        return None
    if (a, b) in ((0.0, -math.inf), (-math.inf, 0.0)):
        return [("log_is_zero" if a else "log_is_nonzero", None)], test.inputs[0]
    for name, chosen, other in (("is_nonzero", a, b), ("is_zero", b, a)):
        difference = np.float32(chosen) - np.float32(other)
        if np.isfinite(difference) and difference + np.float32(other) == np.float32(chosen):
            steps: list[tuple[str, float | None]] = [(name, None), ("mul_vector", float(difference))]
            return steps + ([("add_vector", other)] if other else []), test.inputs[0]
    return None


def _computable(node: Node) -> bool:
    """Whether a kernel computes this and applies steps to it: a product with, or a lookup in, a constant."""
    if node.dtype != "float32" or node.op not in ("matmul", "take"):
        return False
    fixed = constant_of(node.inputs[1] if node.op == "matmul" else node.inputs[0])
    if fixed is None or fixed.ndim != 2 or fixed.dtype != np.float32:
        return False
    if node.op == "matmul":
        return len(node.inputs[0].shape) > 1
    ids = node.inputs[1]
    return node.attrs.axis is not None and int(node.attrs.axis) == 0 and ids.dtype == "int64" and not ids.is_const


def _absorbable(node: Node, kept: Kept, readers: int = 1) -> bool:
    """Whether nobody but the kernel being made reads `node`."""
    return node.uses == readers and not kept(node)


def _step(node: Node, columns: int, kept: Kept) -> tuple[list[tuple[str, Any]], Node] | None:
    """One element-wise operator as epilogue steps with operands, and the tensor that they are applied to."""
    if node.dtype != "float32" or (node.shape[-1:] or (1,)) != (columns,):
        return None
    if node.op in UNARY_OPERATORS:
        return [(UNARY_OPERATORS[node.op], None)], node.inputs[0]
    if (spelt := match_activation(node)) is not None:
        return [(spelt[0], None)], spelt[1]
    if node.op not in ("add", "subtract", "multiply", "divide"):
        return None
    left, right = node.inputs
    if (vector := _vector_of(right, columns)) is not None and left.shape == node.shape:
        if node.op in ("add", "subtract"):
            return [("add_vector", vector if node.op == "add" else -vector)], left
        factors = vector if node.op == "multiply" else _inverse(vector)
        return None if factors is None else ([("mul_vector", factors)], left)
    if (vector := _vector_of(left, columns)) is not None and right.shape == node.shape:
        if node.op == "subtract":
            return [("mul_vector", np.full_like(vector, -1.0)), ("add_vector", vector)], right
        return None if node.op == "divide" else ([("add_vector" if node.op == "add" else "mul_vector", vector)], right)
    shape = _without_ones(node.shape)
    if node.op not in ("add", "multiply") or not _without_ones(left.shape) == _without_ones(right.shape) == shape:
        return None
    main, other = (left, right) if _depth(left, kept) >= _depth(right, kept) else (right, left)
    return [("add" if node.op == "add" else "mul", other)], main


def _inverse(vector: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """1 / vector, if multiplying with it is dividing: a number near the ends of float32 has no inverse there."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1.0) / vector
    ends = (vector == 0) | ~np.isfinite(vector)  # these are each other's inverses
    inside = np.isfinite(inverse) & (np.abs(inverse) >= np.finfo(np.float32).tiny)
    return inverse if (ends | inside).all() else None


def _vector_of(node: Node, columns: int) -> NDArray[np.float32] | None:
    return as_vector(node, columns) if node.is_const else None


def _depth(node: Node, kept: Kept) -> int:
    """How late in the graph the product that `node` comes straight from is; −1 if it comes from none.

    Of the two sides of a residual add, the later product takes the other side as its epilogue's operand.
    """
    columns, latest = node.shape[-1], -1
    waiting = [node]
    for _ in range(SIGHT):
        if not waiting:
            break
        node = waiting.pop()
        if not _absorbable(node, kept):
            continue
        if node.op == "matmul":
            latest = max(latest, node.index if constant_of(node.inputs[1]) is not None else -1)
        elif node.op in RESHAPES or node.op in UNARY_OPERATORS:
            waiting.append(node.inputs[0])
        elif node.op in ("add", "subtract", "multiply", "divide"):
            if (spelt := match_activation(node)) is not None:
                waiting.append(spelt[1])
            elif _vector_of(node.inputs[1], columns) is not None:
                waiting.append(node.inputs[0])
            elif _vector_of(node.inputs[0], columns) is not None:
                waiting.append(node.inputs[1])
            else:
                waiting += node.inputs
    return latest


def _same_row(reshape: Node, node: Node) -> bool:
    return reshape.inputs[0].shape[-1:] == node.shape[-1:]


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without leading dimensions of 1, which change nothing about the memory."""
    first = next((i for i, d in enumerate(shape) if d != 1), len(shape))
    return shape[first:]
