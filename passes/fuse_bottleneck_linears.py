"""Run linears that read the same tensor as one, and compose linears with nothing between them.

    horizontal   x W₁ + b₁, x W₂ + b₂   ->  Split(x [W₁ W₂] + [b₁ b₂])      same multiply-adds, one pass over x
    vertical     (x W₁ + b₁) W₂ + b₂    ->  x (W₁ W₂) + (b₁ W₂ + b₂)        K·N₁ + N₁·N₂ becomes K·N₂

Vertical is taken where the multiply-adds do not grow (more precisely: to at most `vertical_cost` times as many) and
only linears read the value between, counted together. MobileBERT's shared key/query bottleneck is a case where they
do: 512·128 + 128·256 against 512·256. With a `vertical_cost` of 1.34 all that reads the stream becomes one linear.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes import linear
from passes.graph import constant, replace_output
from passes.linear import Linear
from passes.options import Options
from passes.report import Outcome, Refusals


def fuse_bottleneck_linears(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    fused = composed = removed = 0
    for node in list(model.graph):
        first = linear.match(node)
        readers = _readers(first, options.vertical_cost, refusals) if first else []
        if first and readers:
            before, after = _cost(first, readers)
            removed += before - after
            composed += len(readers)
            for reader in readers:
                _compose(first, reader)
    RemoveUnusedNodesPass()(model)
    for group in _same_input(model.graph, refusals) if options.horizontal else []:
        _fuse(model.graph, group)
        fused += len(group)
    RemoveUnusedNodesPass()(model)
    counts = {"fused": fused, "composed": composed, "multiply_adds_saved_per_token": removed}
    return Outcome(fused + composed, counts, refusals.all())


def _same_input(graph: ir.Graph, refusals: Refusals) -> list[list[Linear]]:
    """Groups of linears that read one tensor and are written alike, in the order they stand."""
    groups: dict[tuple[ir.Value, str, bool], list[Linear]] = {}
    for node in graph:
        matched = linear.match(node)
        if matched is None:
            continue
        if not linear.may_change(matched):
            refusals.add("a large matrix with other readers would be stored twice", node.name or "")
            continue
        groups.setdefault((matched.x, node.op_type, matched.transposed), []).append(matched)
    return [group for group in groups.values() if len(group) > 1]


def _fuse(graph: ir.Graph, group: Sequence[Linear]) -> None:
    first = group[0]
    widths = [member.shape[1] for member in group]
    weight = np.concatenate([member.matrix() for member in group], axis=1)
    x = first.node.inputs[0]  # another group may have rewired it since the match
    inputs = [x, constant(graph, weight.T if first.transposed else weight, f"{first.weight.name}.fused")]
    if any(member.bias is not None for member in group):
        bias = np.concatenate([member.vector() for member in group])
        inputs.append(constant(graph, bias, f"{(first.bias or first.weight).name}.fused"))
    leading = list(first.output.shape[:-1]) if first.output.shape is not None else None
    wide = _like(first.output, leading, sum(widths))
    outputs = [_like(member.output, leading, width) for member, width in zip(group, widths, strict=True)]
    fused = ir.Node(
        "", first.node.op_type, inputs, list(first.node.attributes.values()), outputs=[wide], name=first.node.name
    )
    sizes = constant(graph, np.array(widths), "split", np.int64)
    split = ir.Node(
        "", "Split", [wide, sizes], [ir.AttrInt64("axis", -1)], outputs=outputs, name=f"{first.node.name}.split"
    )
    graph.insert_before(first.node, [fused, split])
    for member, output in zip(group, outputs, strict=True):
        replace_output(member.output, output)


def _like(value: ir.Value, leading: Sequence[int | ir.SymbolicDim] | None, size: int) -> ir.Value:
    shape = None if leading is None else ir.Shape([*leading, size])
    return ir.Value(shape=shape, type=value.type)


def _readers(first: Linear, limit: float, refusals: Refusals) -> list[Linear]:
    """The linears that read this one, where all that read it are linears and composing them is allowed and pays."""
    readers = [linear.match(node) for node in first.output.consumers()]
    linears = [reader for reader in readers if reader is not None]
    if not linears or len(linears) < len(first.output.uses()) or first.output.is_graph_output():
        if linears:
            refusals.add("the value between two linears has other readers", linears[0].node.name or "")
        return []
    if first.bias is not None and not all(linear.takes_bias(reader) for reader in linears):
        refusals.add("a bias between Gemm and MatMul; run flatten_tokens first", linears[0].node.name or "")
        return []
    before, after = _cost(first, linears)
    if after > limit * before:
        refusals.add(f"composed, {after:,} multiply-adds a token instead of {before:,}", linears[0].node.name or "")
        return []
    return linears


def _cost(first: Linear, readers: Sequence[Linear]) -> tuple[int, int]:
    """Multiply-adds for one token: one after the other, composed."""
    rows, middle = first.shape
    columns = sum(reader.shape[1] for reader in readers)
    return rows * middle + middle * columns, rows * columns


def _compose(first: Linear, second: Linear) -> None:
    after = second.matrix()
    second.set_matrix(first.matrix() @ after)
    if first.bias is not None:
        second.set_vector(first.vector() @ after + second.vector())
    second.node.replace_input_with(0, first.x)
