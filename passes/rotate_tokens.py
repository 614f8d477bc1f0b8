"""Rotary positions before the heads are parted: on [1, T, H, d], a row a token, in place of [1, H, T, d].

    f(transpose(x), c)  ->  transpose(f(x, transpose(c)))

for what a rotation is made of: products with the constants cos and sin [1, 1, T, d], the halves of d, their negative,
their concatenation, and the sum; and for a bias or a scale a head [1, H, 1, d].
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.graph import array, attribute, constant, dims, ints, make, replace_output
from passes.options import Options
from passes.report import Outcome

HEADS = [0, 2, 1, 3]


def rotate_tokens(model: ir.Model, options: Options) -> Outcome:
    applied = sum(_moved(node) for node in list(model.graph))
    if applied:
        RemoveUnusedNodesPass()(model)
    return Outcome(applied)


def _moved(node: ir.Node) -> bool:
    """Put the transpose behind the node; whether it could."""
    output, shape = node.outputs[0], dims(node.outputs[0])
    if len(shape) != 4 or None in shape or shape[0] != 1 or not _on_the_last_axis(node):
        return False
    operands: list[ir.Value | None] = []
    for index, value in enumerate(node.inputs):
        source = value.producer() if value is not None else None
        if source is not None and source.op_type == "Transpose" and ints(source, "perm") == HEADS:
            operands.append(source.inputs[0])
        elif node.op_type == "Slice" and index > 0:
            operands.append(value)
        elif node.op_type in ("Mul", "Add") and (values := array(value)) is not None and _broadcasts(values, shape):
            assert node.graph is not None
            operands.append(constant(node.graph, values.transpose(HEADS), f"{value.name}.tokens"))  # type: ignore[union-attr]
        else:
            return False
    parted = [shape[axis] for axis in HEADS]
    attributes = dict(node.attributes)
    if node.op_type == "Concat":
        attributes = {"axis": ir.AttrInt64("axis", 3)}
    result = make(node.op_type, operands, before=node, like=output, shape=parted, attributes=attributes)
    heads = {"perm": ir.AttrInt64s("perm", HEADS)}
    replace_output(output, make("Transpose", [result], before=node, like=output, shape=shape, attributes=heads))
    return True


def _broadcasts(values: np.ndarray, shape: list[int | None]) -> bool:
    """Whether a constant of four dimensions, more than a number, has 1 or the tensor's size in each."""
    fits = values.ndim == 4 and all(own in (1, size) for own, size in zip(values.shape, shape, strict=True))
    return fits and values.size > 1


def _on_the_last_axis(node: ir.Node) -> bool:
    if node.op_type == "Concat":
        return attribute(node, "axis", 0) in (-1, 3)
    if node.op_type == "Slice":
        axes = array(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is not None and bool(np.isin(axes, (-1, 3)).all())
    return node.op_type in ("Mul", "Add", "Neg")
