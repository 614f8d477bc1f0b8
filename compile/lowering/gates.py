"""A gated feed-forward f(x W₁) · x W₂ as two linears: the second's epilogue multiplies by what the first has left.

    parts of x [W₁ W₂] + [b₁ b₂]  ->  x W₁ + b₁,  x W₂ + b₂

Files write one product and part it. As one kernel it would leave twice as much in memory, for another to read again.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.importer.graph import RESHAPES, Graph, Node
from compile.lowering.epilogues import UNARY_OPERATORS
from compile.lowering.patterns import as_vector, constant_of, match_activation, match_part, match_quantized_weight


def part_gates(graph: Graph) -> None:
    """Give the two factors of every gate a product of their own."""
    for node in graph.nodes:
        if node.op != "multiply" or node.dtype != "float32":
            continue
        first, second = (_part_before(operand) for operand in node.inputs)
        if first is not None and second is not None and first is not second:
            _part(first, second)


def _part_before(node: Node) -> Node | None:
    """The part of another tensor that `node` is, or is an activation of."""
    while match_part(node) is None:
        if node.op in UNARY_OPERATORS:
            node = node.inputs[0]
        elif (match := match_activation(node)) is not None:
            node = match[1]
        else:
            return None
    return node


def _part(first: Node, second: Node) -> None:
    parts = [part for part in (match_part(first), match_part(second)) if part is not None]
    source = parts[0].source
    if source is not parts[1].source or source.uses != 2 or any(p.axis != len(source.shape) - 1 for p in parts):
        return
    linear = source
    while linear.op in RESHAPES and linear.inputs[0].shape[-1] == linear.shape[-1] and linear.inputs[0].uses == 1:
        linear = linear.inputs[0]
    bias, product = None, linear
    if linear.op == "add":
        for product, other in (linear.inputs, linear.inputs[::-1]):
            bias = as_vector(other, linear.shape[-1])
            if bias is not None and product.op == "matmul" and product.uses == 1:
                break
    if product.op != "matmul" or (bias is None) != (product is linear):
        return
    weight = constant_of(product.inputs[1])
    if weight is None or weight.ndim != 2:
        return
    for node, part in zip((first, second), parts, strict=True):
        columns = slice(part.begin, part.begin + part.count)
        shape = (*product.shape[:-1], part.count)
        x, part_of_weight = product.inputs[0], _columns(product.inputs[1], weight, columns)
        result = Node(f"{product.name}.{part.begin}", "matmul", shape, "float32", [x, part_of_weight], uses=1)
        x.uses += 1
        if bias is not None:
            result = Node(
                f"{result.name}.bias", "add", shape, "float32", [result, _constant(bias[columns], "bias")], uses=1
            )
        result.index = result.inputs[0].index = node.index
        node.op, node.inputs, node.static = "reshape", [result], []


def _columns(node: Node, weight: NDArray[Any], columns: slice) -> Node:
    """Some columns of a constant matrix, as int8 where it is."""
    name = f"{node.name}.{columns.start}"
    quantized = match_quantized_weight(node, axis=1)
    if quantized is None:
        return _constant(weight[:, columns], name)
    values: tuple[NDArray[Any], ...] = (quantized.values[:, columns], quantized.scales[columns], np.zeros(1, np.int8))
    inputs = [_constant(array, f"{name}.{i}") for i, array in enumerate(values)]
    shape = (len(weight), columns.stop - columns.start)
    return Node(name, "dequantize", shape, "float32", inputs, attrs=SimpleNamespace(axis=1), uses=1)


def _constant(data: NDArray[Any], name: str) -> Node:
    return Node(name, "const", data.shape, str(data.dtype), data=data, uses=1)
