"""One layout for attention: Reshape → Transpose → MatMul → Add → Softmax → MatMul → Transpose → Reshape.

    Transpose(Transpose(x, p), r)                                      ->  Transpose(x, p∘r)
    Reshape(Reshape(x, s), t)                                          ->  Reshape(x, t)
    Reshape(Transpose(Reshape(x, [BH, T, D]), [0,2,1]), [B, H, D, T])  ->  Transpose(x, [0,1,3,2])

q and v are split into heads by [0,2,1,3], k by [0,2,3,1] in one step, and the heads are merged by [0,2,1,3].
The first two rewrites are onnxscript's.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter.pattern import RewriteRuleSet
from onnxscript.rewriter.rules.common import (
    no_op_transpose_rule,
    reshape_reshape_rule,
    transpose_transpose_rule,
)

from passes.graph import attribute, ints, make, replace_output
from passes.options import Options
from passes.report import Outcome

HEADS_SWAPPED = [0, 1, 3, 2]


def canonical_attention(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        x = _swapped_heads(node)
        if x is not None:
            swap = {"perm": ir.AttrInt64s("perm", HEADS_SWAPPED)}
            result = make("Transpose", [x], before=node, like=node.outputs[0], attributes=swap)
            replace_output(node.outputs[0], result)
            applied += 1
    RemoveUnusedNodesPass()(model)
    rules = RewriteRuleSet([reshape_reshape_rule, transpose_transpose_rule, no_op_transpose_rule])
    applied += rules.apply_to_model(model)
    RemoveUnusedNodesPass()(model)
    return Outcome(applied)


def _swapped_heads(node: ir.Node) -> ir.Value | None:
    """x [B, H, T, D] where the node makes [B, H, D, T] of it by way of a three-dimensional transpose."""
    inner = _before(node, "Reshape")
    outer = _before(inner, "Transpose") if inner is not None else None
    if node.op_type != "Reshape" or inner is None or outer is None or ints(inner, "perm") != [0, 2, 1]:
        return None
    x, result = outer.inputs[0], node.outputs[0]
    if outer.op_type != "Reshape" or x is None or x.shape is None or result.shape is None or len(x.shape) != 4:
        return None
    middle = outer.outputs[0].shape
    if middle is None or len(middle) != 3 or list(middle[1:]) != list(x.shape[2:]) or attribute(node, "allowzero", 0):
        return None
    dims = [x.shape[axis] for axis in HEADS_SWAPPED]
    return x if list(result.shape) == dims and all(isinstance(dim, int) for dim in dims[1:]) else None


def _before(node: ir.Node, op: str) -> ir.Node | None:
    """The node that makes the first input of a node of type `op`."""
    x = node.inputs[0] if node.op_type == op and node.inputs else None
    return x.producer() if x is not None else None
