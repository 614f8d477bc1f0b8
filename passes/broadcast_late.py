"""Leave a mask as small as it is: what widens it is dropped where its reader widens it anyway.

    Add(scores, Where(And(true, m), 0, −∞))  ->  Add(scores, Where(m, 0, −∞))

`true` is a constant of ones that makes [1, 1, T, T] of m [1, 1, 1, T]; an Expand does the same. Readers on the way may
be element-wise, as long as the last one has another operand of the whole shape.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.graph import array, dims, infer_shapes
from passes.options import Options
from passes.report import Outcome

UNARY = {"Cast", "Not", "Neg", "Identity", "IsNaN", "IsInf"}
BROADCASTS = {"Where", "Add", "Sub", "Mul", "Div", "And", "Or", "Equal", "Greater", "Less", "GreaterOrEqual", "Pow"}


def broadcast_late(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        x, result = _widened(node), node.outputs[0]
        if x is None or dims(x) == dims(result):
            continue
        changed: list[ir.Value] = []
        if _widens_later(result, changed):
            result.replace_all_uses_with(x)
            for value in changed:
                value.shape = None
            applied += 1
    if applied:
        RemoveUnusedNodesPass()(model)
        infer_shapes(model)
    return Outcome(applied)


def _widened(node: ir.Node) -> ir.Value | None:
    """x where the node gives x as it is, in a larger shape."""
    if None in dims(node.outputs[0]) or not dims(node.outputs[0]):
        return None
    if node.op_type == "Expand":
        return node.inputs[0]
    if node.op_type == "And":
        for x, other in (node.inputs, node.inputs[::-1]):
            values = array(other)
            if values is not None and values.all():
                return x
    return None


def _widens_later(value: ir.Value, changed: list[ir.Value]) -> bool:
    """Whether all readers come to the same with a smaller value; those whose own shape shrinks are in `changed`."""
    if value.is_graph_output() or not value.uses():
        return False
    for reader in value.consumers():
        result = reader.outputs[0]
        if reader.op_type in BROADCASTS and dims(result):
            others = [dims(v) for v in reader.inputs if v is not value]
            if any(len(other) == len(dims(result)) and other == dims(result) for other in others):
                continue
            if any(size != 1 for other in others for size in other):
                return False
        elif reader.op_type not in UNARY:
            return False
        changed.append(result)
        if not _widens_later(result, changed):
            return False
    return True
