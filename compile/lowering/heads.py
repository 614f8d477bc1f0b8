"""Tensors parted into heads: how [H, T, d] and [H, d, T] are laid out of a tensor with a row a token."""

from __future__ import annotations

import math

from compile.importer.graph import RESHAPES, Node, scalar
from compile.lowering.patterns import permutation

TOKENS_FIRST = (1, 0, 2)  # [H, T, d] of [T, H, d]
KEYS_LAST = (1, 2, 0)  # [H, d, T] of [T, H, d]


def heads_of(node: Node, axes: tuple[int, ...]) -> tuple[Node, float] | None:
    """The tensor (1, T, H, d) that `node` lays out by `axes`, and the number that it is multiplied with."""
    factor = 1.0
    order: tuple[int, ...] = (0, 1, 2)
    while True:
        node, scale = unscaled(node)
        factor *= scale
        shape = node.shape
        if len(shape) < 3 or math.prod(shape[:-3]) != 1:
            return None
        if (axis := permutation(node)) is not None:
            extra = len(axis) - 3
            if any(axis[i] != i for i in range(extra)):
                return None
            order = tuple(axis[extra + i] - extra for i in order)
            node = node.inputs[0]
        elif (shared := _repeated(node)) is not None and order != axes:
            node = shared
        elif node.op in RESHAPES and node.inputs[0].shape[-3:] == shape[-3:] and order != axes:
            node = node.inputs[0]
        else:
            return (node, factor) if order == axes else None


def unscaled(node: Node) -> tuple[Node, float]:
    """Before multiplications and divisions by one number, whoever else reads them; and their product."""
    factor = 1.0
    while node.op in ("multiply", "divide"):
        left, right = map(scalar, node.inputs)
        if right is not None:
            node, factor = node.inputs[0], factor * right if node.op == "multiply" else factor / right
        elif left is not None and node.op == "multiply":
            node, factor = node.inputs[1], factor * left
        else:
            break
    return node, factor


def through_ones(node: Node) -> Node:
    """Before reshapes that add or drop ones in front of three dimensions."""
    while node.op in RESHAPES and node.inputs[0].shape[-3:] == node.shape[-3:]:
        node = node.inputs[0]
    return node


def _repeated(node: Node) -> Node | None:
    """x (1, H, T, d) where every head of it stands several times in a row in `node`."""
    if node.op not in RESHAPES or len(node.shape) != 4 or node.inputs[0].op != "broadcast_to":
        return None
    wide, narrow = node.inputs[0].shape, node.inputs[0].inputs[0]
    if len(wide) != 5 or narrow.shape != (*wide[:2], 1, *wide[3:]) or narrow.op not in RESHAPES:
        return None
    x = narrow.inputs[0]
    return x if x.shape == (1, wide[1], *wide[3:]) and node.shape == (1, wide[1] * wide[2], *wide[3:]) else None
