"""Kernels that go over a tensor's rows: norms, element-wise trees, and what is summed over the tokens."""

from __future__ import annotations

import math

import numpy as np

from compile.importer.graph import TYPES, Node
from compile.kernels.pointwise import Pointwise, Source
from compile.kernels.rowwise import LayerNorm, OverTokens, RunningSum
from compile.lowering.lowering import Lowering
from compile.lowering.patterns import as_vector, match_rms_norm
from compile.lowering.token_axis import along_tokens
from compile.lowering.trees import find_tree
from compile.program import Operand, View


def layer_norm(low: Lowering, node: Node) -> View | None:
    if node.op != "nn.layer_norm" or [int(a) % len(node.shape) for a in node.attrs.axes] != [len(node.shape) - 1]:
        return None
    columns = node.shape[-1]
    gamma, beta = (as_vector(operand, columns) for operand in node.inputs[1:3])
    if gamma is None or beta is None:
        return None
    rows = math.prod(node.shape[:-1])
    x, to = low.seen_as(node.inputs[0], rows, columns), low.result(node, rows, columns)
    operands = {"x": x, "gamma": low.vector(gamma, node), "beta": low.vector(beta, node)}
    return low.emit(LayerNorm(columns, float(node.attrs.epsilon), low.isa), operands, to, node)


def rms_norm(low: Lowering, node: Node) -> View | None:
    """With the vector that it is multiplied with, if it is."""
    columns, match, gamma = node.shape[-1] if node.shape else 1, match_rms_norm(node), None
    if match is None and node.op == "multiply":
        for operand, other in (node.inputs, node.inputs[::-1]):
            gamma = as_vector(other, columns)
            if gamma is not None and operand.uses == 1 and operand.shape == node.shape and not low.kept(operand):
                match = match_rms_norm(operand)
                break
    if match is None or node.dtype != "float32":
        return None
    x, epsilon = match
    rows = math.prod(node.shape[:-1])
    gamma = np.ones(columns, np.float32) if gamma is None else gamma
    operands = {"x": low.seen_as(x, rows, columns), "gamma": low.vector(gamma, node)}
    return low.emit(LayerNorm(columns, epsilon, low.isa, False), operands, low.result(node, rows, columns), node)


def pointwise(low: Lowering, node: Node) -> View | None:
    """Element-wise operators that are no step of an epilogue, a row a token."""
    tree = find_tree(node, low.tokens, low.kept)
    if tree is None:
        return None
    tokens = low.program.tokens
    columns = math.prod(c or tokens for c in tree.columns)
    kernel = Pointwise(tree.columns, tree.expression, tuple(tree.sources), node.dtype, low.isa)
    operands: dict[str, Operand] = {}
    for index, (leaf, source) in enumerate(zip(tree.leaves, tree.sources, strict=True)):
        width = math.prod(leaf.shape) // tokens
        operands[f"x{index}"] = low.seen_as(leaf, tokens, width) if source.by_row else low.dense(leaf)
    return low.emit(kernel, operands, low.result(node, tokens, columns), node)


def running_sum(low: Lowering, node: Node) -> View | None:
    tokens = low.program.tokens
    if node.op != "cumsum" or not along_tokens(node, tokens):
        return None
    x = low.dense(node.inputs[0])
    return low.emit(RunningSum(node.dtype), {"x": x}, low.result(node, tokens, 1), node)


def over_tokens(low: Lowering, node: Node) -> View | None:
    """A sum, a mean or an extreme over the tokens of what has a row a token."""
    if node.op not in ("sum", "mean", "max", "min") or node.attrs.axis is None or node.dtype == "bool":
        return None
    x, tokens = node.inputs[0], low.program.tokens
    axis = low.tokens.leading(x.shape)
    if axis is None or [int(a) % len(x.shape) for a in node.attrs.axis] != [axis] or not low.tokens.index(x):
        return None
    if node.dtype not in TYPES or (node.op == "mean" and node.dtype != "float32"):
        return None
    columns = math.prod(x.shape[axis + 1 :])
    kernel = OverTokens(node.op, columns, node.dtype, low.isa)
    return low.emit(kernel, {"x": low.seen_as(x, tokens, columns)}, low.result(node, 1, columns), node)


def widened(low: Lowering, node: Node) -> View | None:
    """One number a token, as a mask is, repeated along a row."""
    x, tokens = node.inputs[0] if node.inputs else node, low.program.tokens
    if node.op != "broadcast_to" or math.prod(x.shape) != tokens or not low.tokens.index(node):
        return None
    columns = math.prod(node.shape) // tokens
    kernel = Pointwise((columns,), ("operand", 0), (Source(node.dtype, True, (0,)),), node.dtype, low.isa)
    return low.emit(kernel, {"x0": low.seen_as(x, tokens, 1)}, low.result(node, tokens, columns), node)


def side_by_side(low: Lowering, node: Node) -> View | None:
    """Columns of several tensors in one row a token, or in one row."""
    if node.op != "concat" or node.dtype not in TYPES:
        return None
    tokens, shape, axis = low.program.tokens, node.shape, int(node.attrs.axis) % len(node.shape)
    leading = low.tokens.leading(shape)
    by_token = leading is not None and axis == leading + 1 and low.tokens.index(node)
    if not by_token and math.prod(shape[:axis]) != 1:
        return None
    rows, at = tokens if by_token else 1, 0
    to = low.result(node, rows, math.prod(shape) // rows)
    for part in node.inputs:
        width = math.prod(part.shape) // rows
        low.copy(low.seen_as(part, rows, width), to.part(at, width), node)
        at += width
    return to
