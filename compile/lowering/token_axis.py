"""Which tensors have one entry a token: what a shorter sequence makes shorter."""

from __future__ import annotations

import math

from compile.importer.graph import Node
from compile.kernels.pointwise import NAMES
from compile.lowering.attention import match_attention
from compile.lowering.patterns import RESHAPES, match_rotation

ELEMENT_WISE = frozenset({*NAMES, "erf", "nn.layer_norm"})


class Tokens:
    """Decides by where a tensor comes from, not by its shape: a hidden size may well equal the sequence length."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._by_token: dict[Node, bool] = {}
        self._by_column: dict[Node, bool] = {}

    def index(self, node: Node) -> bool:
        """Whether `node`, seen as (tokens, anything), has one row a token, and each depends on no other's position."""
        if node not in self._by_token:
            self._by_token[node] = self._decide(node)
        return self._by_token[node]

    def columns(self, node: Node) -> bool:
        """Whether `node`'s last dimension is that of the tokens, as in a mask's row."""
        if node not in self._by_column:
            row = node.shape[-1:] == (self.count,)
            if row and math.prod(node.shape) != self.count:
                row = node.op in NAMES and any(self.columns(operand) for operand in node.inputs)
            self._by_column[node] = row and (math.prod(node.shape) != self.count or self.index(node))
        return self._by_column[node]

    def _decide(self, node: Node) -> bool:
        if node.op == "input":
            return node.shape == (1, self.count)
        if self.leading(node.shape) is None:
            return False
        if node.op in RESHAPES:
            return self.index(node.inputs[0])
        if node.op in ELEMENT_WISE:
            return any(self.index(operand) for operand in node.inputs)
        if node.op == "broadcast_to":  # along the rows
            return self.index(node.inputs[0]) and self.leading(node.inputs[0].shape) == self.leading(node.shape)
        if node.op == "cumsum":
            return along_tokens(node, self.count) and self.index(node.inputs[0])
        if node.op == "matmul":
            return _constant(node.inputs[1]) and self.index(node.inputs[0])
        if node.op == "take" and _constant(node.inputs[0]):
            return self.index(node.inputs[1])
        if node.op in ("strided_slice", "take"):  # of columns: taking rows leaves no token dimension
            return self.index(node.inputs[0]) and self.leading(node.inputs[0].shape) == self.leading(node.shape)
        if (match := match_attention(node)) is not None:
            return self.index(match.query) and self.index(match.key) and self.index(match.value)
        if (rotated := match_rotation(node)) is not None:
            return self.index(rotated)
        # A concatenation of shifted rows: a convolution over tokens.
        return node.op == "concat" and len(node.shape) == 3 and any(self.index(operand) for operand in node.inputs)

    def leading(self, shape: tuple[int, ...]) -> int | None:
        """The dimension that counts tokens, if only ones stand before it."""
        for position, dimension in enumerate(shape):
            if dimension == self.count and math.prod(shape[:position]) == 1:
                return position
        return None


def along_tokens(node: Node, count: int) -> bool:
    """Whether a running sum goes over the tokens of one row of numbers, each with its own."""
    over, attributes = node.inputs[0].shape, node.attrs
    one_row = math.prod(over) == count and attributes.axis is not None and over[int(attributes.axis)] == count
    return one_row and not attributes.exclusive and node.dtype == node.inputs[0].dtype


def _constant(node: Node) -> bool:
    """Whether `node` is a constant, perhaps laid out anew or stored as int8."""
    layouts = (*RESHAPES, "permute_dims", "concat", "dequantize")
    return node.is_const or (node.op in layouts and all(map(_constant, node.inputs)))
