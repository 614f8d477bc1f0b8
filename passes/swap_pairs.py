"""Rotary positions that rotate neighbours: two slices and a stack are one lookup of columns, and signs.

    Reshape(Concat(Unsqueeze(−x[1::2]), Unsqueeze(x[0::2])))  ->  Gather(x, [1, 0, 3, 2, …]) ∘ [−1, 1, −1, 1, …]

along the last axis, as RoFormer writes it.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.graph import array, attribute, constant, dims, make, replace_output
from passes.options import Options
from passes.report import Outcome


def swap_pairs(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        x = _rotated(node)
        if x is None:
            continue
        size = dims(x)[-1]
        places = constant(model.graph, np.arange(size) ^ 1, "neighbours", np.int64)  # type: ignore[arg-type]
        signs = constant(model.graph, np.resize([-1.0, 1.0], size), "signs")  # type: ignore[arg-type]
        like = node.outputs[0]
        swapped = make("Gather", [x, places], before=node, like=like, attributes={"axis": ir.AttrInt64("axis", -1)})
        replace_output(like, make("Mul", [swapped, signs], before=node, like=like))
        applied += 1
    if applied:
        RemoveUnusedNodesPass()(model)
    return Outcome(applied)


def _rotated(node: ir.Node) -> ir.Value | None:
    """x where the node is the last one of the pattern."""
    stacked = _producer(node.inputs[0], "Concat") if node.op_type == "Reshape" else None
    if stacked is None or len(stacked.inputs) != 2:
        return None
    rank = len(dims(stacked.outputs[0]))
    if attribute(stacked, "axis", 0) % max(rank, 1) != rank - 1:
        return None
    parts = [_producer(value, "Unsqueeze") for value in stacked.inputs]
    if any(part is None or not _adds_last_axis(part) for part in parts):
        return None
    odd, even = (part.inputs[0] for part in parts if part is not None)
    negative = _producer(odd, "Neg")
    x = _every_second(negative.inputs[0], 1) if negative is not None else None
    if x is None or x is not _every_second(even, 0) or dims(x) != dims(node.outputs[0]):
        return None
    return x if dims(x)[-1] is not None and x.dtype == ir.DataType.FLOAT else None


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op else None


def _adds_last_axis(node: ir.Node) -> bool:
    axes = array(node.inputs[1])
    return axes is not None and axes.tolist() in ([-1], [len(dims(node.inputs[0]))])


def _every_second(value: ir.Value | None, first: int) -> ir.Value | None:
    """x where the value is x[first::2] along its last axis."""
    node = _producer(value, "Slice")
    if node is None or len(node.inputs) != 5:
        return None
    start, _, axes, step = (array(operand) for operand in node.inputs[1:])
    x, rank = node.inputs[0], len(dims(node.inputs[0]))
    if x is None or start is None or axes is None or step is None or not rank:
        return None
    fits = start.tolist() == [first] and axes.tolist() in ([-1], [rank - 1]) and step.tolist() == [2]
    size = dims(x)[-1]
    return x if fits and size is not None and size % 2 == 0 and dims(value)[-1] == size // 2 else None
