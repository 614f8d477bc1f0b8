"""What `lower` looks for in the graph; each match is a small record.

Patterns are those of the canonical form that passes leave (docs/architecture.md), not of every exporter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.importer.graph import RESHAPES, Node, scalar


def through_reshapes(node: Node) -> Node:
    """The node whose memory `node` shows under another shape."""
    while node.op in RESHAPES:
        node = node.inputs[0]
    return node


def permutation(node: Node) -> tuple[int, ...] | None:
    if node.op != "permute_dims":
        return None
    if node.attrs.axes is None:
        return tuple(reversed(range(len(node.shape))))
    return tuple(int(a) for a in node.attrs.axes)


def strip_scale(node: Node) -> tuple[Node, float]:
    """Follow multiplications and divisions by one number: (node before them, their product)."""
    factor = 1.0
    while node.op in ("multiply", "divide") and node.uses == 1:
        left, right = node.inputs
        if (value := scalar(right)) is not None:
            factor = factor * value if node.op == "multiply" else factor / value
            node = left
        elif node.op == "multiply" and (value := scalar(left)) is not None:
            factor, node = factor * value, right
        else:
            break
    return node, factor


def match_gelu(node: Node) -> Node | None:
    """x where `node` spells out x · ½ · (1 + erf(x / √2)) in any order of the factors.

    `fuse_gelu` leaves that in models older than opset 20 that ONNX's converter refuses.
    """
    factors, constant = _product(node)
    if len(factors) != 2 or not math.isclose(constant, 0.5, rel_tol=1e-6):
        return None
    for x, gate in (factors, factors[::-1]):
        if gate.op != "add" or gate.uses != 1 or x.uses != 2:
            continue
        sides = [n for n in gate.inputs if scalar(n) is None]
        ones = [s for n in gate.inputs if (s := scalar(n)) is not None]
        if len(sides) != 1 or ones != [1.0] or sides[0].op != "erf":
            continue
        inner, factor = strip_scale(sides[0].inputs[0])
        if inner is x and math.isclose(factor, math.sqrt(0.5), rel_tol=1e-5):
            return x
    return None


def match_silu(node: Node) -> Node | None:
    """x where `node` spells out x · sigmoid(x)."""
    if node.op != "multiply":
        return None
    for x, gate in (node.inputs, node.inputs[::-1]):
        if gate.op == "sigmoid" and gate.inputs[0] is x and gate.uses == 1 and x.uses == 2:
            return x
    return None


def match_activation(node: Node) -> tuple[str, Node] | None:
    """An activation that is spelt out in several operators, as a step of an epilogue, and its argument, read twice."""
    if node.op != "multiply":
        return None
    for name, match in (("gelu", match_gelu), ("silu", match_silu)):
        if (x := match(node)) is not None:
            return name, x
    return None


def match_rms_norm(node: Node) -> tuple[Node, float] | None:
    """x and ε where `node` is x / √(mean(x²) + ε) over x's last dimension, in any of the ways to write it."""
    candidates: list[tuple[Node, Node | None]] = []
    if node.op == "divide" and node.inputs[1].op == "sqrt":
        candidates = [(node.inputs[0], node.inputs[1])]
    elif node.op == "multiply":
        candidates = [(x, _inverted_root(y)) for x, y in (node.inputs, node.inputs[::-1])]
    for x, root in candidates:
        if root is None or root.inputs[0].op != "add" or len(x.shape) < 2 or x.shape != node.shape:
            continue
        mean, epsilon = root.inputs[0].inputs
        mean, number = (mean, scalar(epsilon)) if mean.op == "mean" else (epsilon, scalar(mean))
        if number is None or mean.op != "mean" or not mean.attrs.keepdims or mean.attrs.axis is None:
            continue
        square, last = mean.inputs[0], len(x.shape) - 1
        squared = (square.op == "power" and scalar(square.inputs[1]) == 2.0) or (
            square.op == "multiply" and square.inputs[1] is x
        )
        if squared and square.inputs[0] is x and [int(a) % len(x.shape) for a in mean.attrs.axis] == [last]:
            return x, number
    return None


def _inverted_root(node: Node) -> Node | None:
    """A root's node where `node` is one divided by it."""
    if node.op == "rsqrt":
        return node
    inverted = node.op == "divide" and scalar(node.inputs[0]) == 1.0 and node.inputs[1].op == "sqrt"
    return node.inputs[1] if inverted else None


def _product(node: Node) -> tuple[list[Node], float]:
    """The tensors and the product of the numbers that single-use multiplications and divisions combine to `node`."""
    factors: list[Node] = []
    constant = 1.0
    stack = [(node, True)]
    while stack:
        current, root = stack.pop()
        value = scalar(current)
        if value is not None:
            constant *= value
        elif current.op == "multiply" and (root or current.uses == 1):
            stack.extend((operand, False) for operand in current.inputs)
        elif current.op == "divide" and (root or current.uses == 1) and (divisor := scalar(current.inputs[1])):
            constant /= divisor
            stack.append((current.inputs[0], False))
        else:
            factors.append(current)
    return factors, constant


def constant_of(node: Node) -> NDArray[Any] | None:
    """The value of a node that needs no input to be known, as far as layout operators go."""
    if node.is_const:
        return node.data
    if node.op == "dequantize" and all(operand.is_const for operand in node.inputs):
        return _dequantized(node)
    parts = [constant_of(i) for i in node.inputs] if node.op in (*RESHAPES, "permute_dims", "concat") else []
    constants = [p for p in parts if p is not None]
    if not constants or len(constants) != len(node.inputs):
        return None
    if node.op == "concat":
        return np.concatenate(constants, int(node.attrs.axis))
    return constants[0].reshape(node.shape) if node.op in RESHAPES else constants[0].transpose(permutation(node))


def _dequantized(node: Node) -> NDArray[np.float32]:
    """(q − z) · s along the node's axis, as float32."""
    values, scale, zero = (operand.data for operand in node.inputs)
    assert values is not None
    assert scale is not None
    assert zero is not None
    along = [1] * values.ndim
    if scale.size > 1:
        along[int(node.attrs.axis)] = scale.size
    shifted = values.astype(np.int32) - (zero.astype(np.int32).reshape(along) if zero.size > 1 else int(zero.item()))
    return (shifted * scale.reshape(along)).astype(np.float32)


@dataclass(frozen=True)
class QuantizedWeight:
    """values (K, N) int8; scales: (N,) where they go by columns, (K,) where by rows."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


def match_quantized_weight(node: Node, axis: int) -> QuantizedWeight | None:
    """A constant matrix that comes from int8 numbers with a scale for each entry along `axis`, 0 or 1."""
    if (axes := permutation(node)) == (1, 0):
        weight = match_quantized_weight(node.inputs[0], 1 - axis)
        return weight and QuantizedWeight(weight.values.T, weight.scales)
    if axes is not None or node.op != "dequantize" or len(node.shape) != 2:
        return None
    values, scale, zero = (operand.data for operand in node.inputs)
    if values is None or scale is None or zero is None or values.dtype not in (np.int8, np.uint8):
        return None
    if scale.size > 1 and int(node.attrs.axis) % 2 != axis:
        return None
    shape = (-1, 1) if int(node.attrs.axis) % 2 == 0 else (1, -1)
    shifted = values.astype(np.int32) - zero.astype(np.int32).reshape(shape)
    if not np.all(scale > 0) or shifted.min(initial=0) < -128 or shifted.max(initial=0) > 127:
        return None
    scales = np.broadcast_to(scale.reshape(-1), (node.shape[axis],))
    return QuantizedWeight(shifted.astype(np.int8), np.ascontiguousarray(scales, np.float32))


def match_static_rows(node: Node) -> tuple[float, int] | None:
    """(scale, zero point from 0 to 255) where the node makes floats of 8-bit integers by one constant scale."""
    if node.op != "dequantize":
        return None
    scale, zero = (operand.data for operand in node.inputs[1:])
    if scale is None or zero is None or scale.size != 1 or zero.dtype not in (np.int8, np.uint8):
        return None
    return float(scale.item()), int(zero.item()) - np.iinfo(zero.dtype).min


@dataclass(frozen=True)
class Part:
    """Entries [begin, begin + count) of `source` along `axis`."""

    source: Node
    axis: int
    begin: int
    count: int


def match_part(node: Node) -> Part | None:
    """Part of a tensor along one axis, however it was written: a split, a slice, a lookup of one constant index."""
    if node.op == "strided_slice" and len(node.static) >= 3:
        axes, begins, _ = node.static[:3]
        if len(axes) != 1 or (len(node.static) > 3 and node.static[3] != [1]):
            return None
        axis = axes[0] % len(node.shape)
        size = node.inputs[0].shape[axis]
        begin = max(0, begins[0] + size) if begins[0] < 0 else min(begins[0], size)
        return Part(node.inputs[0], axis, begin, node.shape[axis])
    if node.op == "take" and node.attrs.axis is not None and not node.inputs[0].is_const:
        indices = constant_of(node.inputs[1])
        if indices is not None and indices.size == 1:
            axis = int(node.attrs.axis) % len(node.inputs[0].shape)
            return Part(node.inputs[0], axis, int(indices.reshape(-1)[0]) % node.inputs[0].shape[axis], 1)
    return None


def match_rotation(node: Node) -> Node | None:
    """x where `node` is [−x₂, x₁] of the halves [x₁, x₂] of x's last axis, as rotary positions take it."""
    if node.op != "concat" or len(node.inputs) != 2 or int(node.attrs.axis) % len(node.shape) != len(node.shape) - 1:
        return None
    negative, first = node.inputs
    low, high = match_part(first), match_part(negative.inputs[0]) if negative.op == "negative" else None
    if low is None or high is None or low.source is not high.source or low.source.shape != node.shape:
        return None
    half, last = node.shape[-1] // 2, len(node.shape) - 1
    halves = (low.axis, low.begin, low.count, high.axis, high.begin, high.count)
    return low.source if 2 * half == node.shape[-1] and halves == (last, 0, half, last, half, half) else None


def match_swap(node: Node) -> Node | None:
    """x where `node` has each two neighbours of x's last axis in the other order, as rotary positions may take it."""
    if node.op != "take" or node.attrs.axis is None or int(node.attrs.axis) % len(node.shape) != len(node.shape) - 1:
        return None
    x, indices = node.inputs[0], constant_of(node.inputs[1])
    if indices is None or x.is_const or node.shape != x.shape or node.shape[-1] % 2:
        return None
    return x if np.array_equal(indices, np.arange(node.shape[-1]) ^ 1) else None


@dataclass(frozen=True)
class Windows:
    """[x_{t+after}, …, x_t, …, x_{t−before}] of x (1, T, E), zeros beyond the ends."""

    source: Node
    before: int
    after: int


def match_windows(node: Node) -> Windows | None:
    """The input of a convolution over tokens."""
    if node.op != "concat" or len(node.shape) != 3 or int(node.attrs.axis) % 3 != 2:
        return None
    moved = [_moved(part) for part in node.inputs]
    (source, after), before = moved[0], -moved[-1][1]
    in_order = all(x is source and place == after - i for i, (x, place) in enumerate(moved))
    return Windows(source, before, after) if in_order and len(moved) > 1 and before >= 0 <= after else None


def _moved(node: Node) -> tuple[Node, int]:
    """x and n where `node` has row t + n of x (1, T, E) in row t: a slice of it, with zeros after it or before it."""
    if node.op != "concat" or len(node.inputs) != 2 or int(node.attrs.axis) % 3 != 1:
        return node, 0
    for sign in (1, -1):
        part, zeros = node.inputs[::sign]
        sliced = match_part(part) if part.op == "strided_slice" else None
        if sliced is None or zeros.data is None or zeros.data.any() or sliced.source.shape != node.shape:
            continue
        place = node.shape[1] - sliced.count
        if sliced.axis == 1 and sliced.begin == (place if sign > 0 else 0):
            return sliced.source, sign * place
    return node, 0


def as_vector(node: Node, columns: int) -> np.ndarray | None:
    """A constant that is the same for every row, as (columns,)."""
    if node.data is None or node.data.dtype != np.float32:
        return None
    shape = node.shape
    if node.data.size == 1:
        return np.full(columns, node.data.reshape(-1)[0], np.float32)
    if shape and shape[-1] == columns and node.data.size == columns:
        return node.data.reshape(columns)
    return None
