"""What depends on constants alone, computed now: passes leave large constants alone, as they cannot tell what grows.

DeBERTa projects its table of relative positions in every layer; the importer wraps every lookup's indices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.importer.graph import Graph, Node
from compile.lowering.patterns import constant_of, match_part

Array = NDArray[Any]
OPERATORS: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "negative": np.negative,
    "matmul": np.matmul,
    "equal": np.equal,
    "less": np.less,
    "greater": np.greater,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_not": np.logical_not,
    "where": np.where,
}


def fold_constants(graph: Graph) -> None:
    """Make constants of the nodes that these operators compute from constants."""
    for node in graph.nodes:
        value = _value(node)
        if value is None or value.shape != node.shape:
            continue
        for operand in node.inputs:
            operand.uses -= 1
        node.op, node.data, node.inputs = "const", value.astype(node.dtype), []


def _value(node: Node) -> Array | None:
    sliced = match_part(node) if node.op == "strided_slice" else None
    if node.op not in OPERATORS and sliced is None:
        return None
    if any(operand.op not in ("const", "reshape", "permute_dims", "expand_dims", "squeeze") for operand in node.inputs):
        return None
    operands = [constant_of(operand) for operand in node.inputs]
    if any(operand is None for operand in operands):
        return None
    if sliced is not None:
        return operands[0].take(range(sliced.begin, sliced.begin + sliced.count), sliced.axis)  # type: ignore[union-attr]
    with np.errstate(all="ignore"):
        return np.asarray(OPERATORS[node.op](*operands))
