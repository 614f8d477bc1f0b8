"""An attention's kernel, its mask and its biases.

Relative positions become linears of their own, whose rows the attention reads shifted by one a token.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compile.importer.graph import Node
from compile.kernels.attention import Attention, Bias
from compile.kernels.linear import Linear, pack_weight
from compile.kernels.tiles import default_tile
from compile.lowering.attention import AttentionMatch, match_attention
from compile.lowering.lowering import Lowering
from compile.lowering.scores import Constant, Relative
from compile.program import Call, Operand, Rows, Shared, Value, View, arguments_of


def attention(low: Lowering, node: Node) -> View | None:
    match, tokens = match_attention(node), low.program.tokens
    if match is None or node.shape[1] != tokens:
        return None
    key_width = match.key_heads * match.head_size
    operands: dict[str, Operand] = {
        name: low.seen_as(part, tokens, width)
        for name, part, width in (
            ("q", match.query, match.width), ("k", match.key, key_width), ("v", match.value, key_width),
        )
    }  # fmt: skip
    mask, others = _masks(low, match)
    operands["mask"] = Shared(operands["k"])  # type: ignore[arg-type]  # never read
    if mask is not None:
        own = mask.shape[-2] != 1
        operands["mask"] = low.seen_as(mask, tokens, tokens) if own else Shared(low.view(mask))
    biases = []
    for index, term in enumerate([*match.biases, *others]):
        bias, operands[f"bias{index}"] = _bias(low, term, match, node)
        biases.append(bias)
    key_heads = 0 if match.key_heads == match.heads else match.key_heads
    kernel = Attention(
        match.heads, match.head_size, match.scale, mask is not None, default_tile(low.isa), low.isa,
        match.zeros, tuple(biases), key_heads, match.window,
    )  # fmt: skip
    return low.emit(low.tiled(kernel), operands, low.result(node, tokens, match.width), node)


def _masks(low: Lowering, match: AttentionMatch) -> tuple[Node | None, list[Node]]:
    """The mask, and what else is added to scores: a choice becomes a mask, the same node for the same choice."""
    nodes = [] if match.mask is None else [match.mask]
    for choice in match.choices:
        if choice not in low.choices:
            name, shape = f"{choice.condition.name}.mask", choice.condition.shape
            numbers = [
                Node(f"{name}.{i}", "const", (), "float32", data=np.array(value, np.float32))
                for i, value in enumerate((choice.value, 0.0))
            ]
            inputs = [choice.condition, *(numbers if choice.where else reversed(numbers))]
            low.choices[choice] = Node(name, "where", shape, "float32", inputs, uses=2)
        nodes.append(low.choices[choice])
    return (nodes[0] if nodes else None), [*nodes[1:], *match.others]


def _bias(low: Lowering, term: Constant | Relative | Node, match: AttentionMatch, node: Node) -> tuple[Bias, Operand]:
    """How the attention reads what is added to its scores, and from where."""
    tokens = low.program.tokens
    if isinstance(term, Relative):
        return _relative(low, term, match, node)
    if isinstance(term, Constant):
        table = term.by_distance
        if table is not None:
            value = low.weight(table, f"{node.name}.distances")
            step = table.shape[1] if len(table) > 1 else 0
            return Bias(step), Rows(View(value, tokens, tokens, -1, tokens - 1))
        value, shape = low.weight(term.values, f"{node.name}.bias"), term.values.shape
    else:
        value, shape = low.dense(term).value, (*[1] * (3 - len(term.shape)), *term.shape)[-3:]
    step = shape[1] * tokens if shape[0] > 1 else 0
    row = View(value, tokens, tokens, tokens if shape[1] > 1 else 0)
    return Bias(step), Rows(row, neighbours=True)


def _relative(low: Lowering, term: Relative, match: AttentionMatch, node: Node) -> tuple[Bias, Operand]:
    """A linear for each head makes a row a token, an entry a distance: read from there, shifted by one a token."""
    tokens, size, distances = low.program.tokens, match.head_size, term.vectors.shape[-1]
    x = low.seen_as(term.source, tokens, match.width)
    width = match.heads * distances
    value = Value(f"{node.name}.distances", "temporary", (tokens, width), "float32")
    for head in range(match.heads):
        kernel = low.tiled(Linear(size, distances, False, (), default_tile(low.isa), low.isa))
        vectors = np.ascontiguousarray(term.vectors[head % len(term.vectors)])
        to = View(value, tokens, distances, width, head * distances)
        kernel = replace(kernel, strides=(x.stride, width))
        weight = low.whole(low.weight(pack_weight(vectors, kernel.tile), f"{node.name}.distances"))
        operands = {"x": x.part(head * size, size), "w": weight, "y": to}
        arguments = arguments_of(kernel, operands, tokens, tokens)
        flops = kernel.flops(tokens, tokens)
        low.program.calls.append(Call(kernel, arguments, (value,), tokens, node.name, flops, True))
    if term.by_key:
        return Bias(distances, width - 1), Rows(View(value, tokens, tokens, 1, tokens - 1), neighbours=True)
    return Bias(distances), Rows(View(value, tokens, tokens, width - 1, tokens - 1), neighbours=True)
