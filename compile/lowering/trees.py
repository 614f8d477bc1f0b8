"""Element-wise operators over tokens that no epilogue takes, as one tree for a `Pointwise` kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from compile.importer.graph import TYPES, Node
from compile.kernels.contract import TOKENS
from compile.kernels.pointwise import NAMES, Expression, Source
from compile.lowering.epilogues import MOST_STEPS, Kept
from compile.lowering.patterns import match_rotation, match_swap
from compile.lowering.token_axis import Tokens


@dataclass
class Tree:
    """columns: dimensions of a row; expression: over the nodes in `leaves`, each with how it is read in `sources`."""

    columns: tuple[int, ...]
    expression: Expression = ()
    sources: list[Source] = field(default_factory=list)
    leaves: list[Node] = field(default_factory=list)


def find_tree(node: Node, tokens: Tokens, kept: Kept) -> Tree | None:
    """The tree that ends in `node`, if that has a row a token."""
    axis = tokens.leading(node.shape)
    if node.op not in NAMES or axis is None or not (tokens.index(node) or tokens.columns(node)):
        return None
    columns = list(node.shape[axis + 1 :]) or [1]
    if tokens.columns(node) and axis < len(node.shape) - 1:
        columns[-1] = TOKENS
        if len(columns) > 1:
            return None
    tree = Tree(tuple(columns))
    expression = _expression(node, tree, tokens, kept, node.shape, axis, [MOST_STEPS])
    if expression is None:
        return None
    tree.expression = expression
    return tree


def _expression(
    node: Node, tree: Tree, tokens: Tokens, kept: Kept, shape: tuple[int, ...], axis: int, left: list[int]
) -> Expression | None:
    root = not left or left[0] == MOST_STEPS
    if node.data is not None and node.data.size == 1 and node.dtype in TYPES:
        return "number", node.data.reshape(-1)[0].item(), node.dtype
    fused = root or (
        node.op in NAMES and node.uses == 1 and not kept(node) and math.prod(node.shape) == math.prod(shape)
    )
    if fused and left[0] and _known(node):
        left[0] -= 1
        parts = [_expression(part, tree, tokens, kept, shape, axis, left) for part in node.inputs]
        return (node.op, node.dtype, *parts) if all(part is not None for part in parts) else None
    for name, match in (("rotate", match_rotation), ("swap", match_swap)):
        if not root and (moved := match(node)) is not None and not kept(node):
            operand = _leaf(moved, tree, tokens, shape, axis)
            return operand and (name, node.dtype, operand) if node.shape == shape and node.dtype == "float32" else None
    return None if root else _leaf(node, tree, tokens, shape, axis)


def _known(node: Node) -> bool:
    """Whether the kernel has this operator for these types."""
    types = {node.dtype, *(part.dtype for part in node.inputs)}
    if not types <= set(TYPES):
        return False
    floats = all(part.dtype == "float32" for part in node.inputs)
    if node.op == "astype":
        return node.inputs[0].dtype != "float32" or node.dtype in ("bool", "float32")
    return floats or node.op not in ("divide", "exp", "sigmoid", "tanh", "sqrt", "rsqrt")


def _leaf(node: Node, tree: Tree, tokens: Tokens, shape: tuple[int, ...], axis: int) -> Expression | None:
    """`node` as an operand that is broadcast to `shape`, whose tokens are at `axis`."""
    own = (*[1] * (len(shape) - len(node.shape)), *node.shape)
    if node.dtype not in TYPES or math.prod(own[:axis]) != 1:
        return None
    by_row, strides, step = own[axis] != 1, [], 1
    for size in reversed(own[axis + 1 :]):
        strides.append(step if size != 1 else 0)
        step *= size
    if not strides:
        strides.append(0)
    if not by_row and not node.is_const and step > 1 and TOKENS not in tree.columns:
        return None
    source = Source(node.dtype, by_row, tuple(reversed(strides)))
    for index, leaf in enumerate(tree.leaves):
        if leaf is node and tree.sources[index] == source:
            return "operand", index
    tree.leaves.append(node)
    tree.sources.append(source)
    return "operand", len(tree.leaves) - 1
