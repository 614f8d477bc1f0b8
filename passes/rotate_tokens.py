"""Rotary positions before the heads are parted: on [1, T, H, d], a row a token, in place of [1, H, T, d].

    f(transpose(x), c)  ->  transpose(f(x, transpose(c)))

for what a rotation is made of: products with cos and sin [1, 1, T, d], the halves of d, their negative, their
concatenation, neighbours in the other order, and the sum; and for a constant bias or scale a head [1, H, 1, d].
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
    assert node.graph is not None
    transposed = [_before_heads(value) for value in node.inputs]
    if not any(transposed):
        return False
    operands: list[ir.Value | None] = []
    for index, (value, source) in enumerate(zip(node.inputs, transposed, strict=True)):
        values, own = array(value), dims(value)
        element_wise = node.op_type in ("Mul", "Add") and value is not None
        if source is not None:
            operands.append(source)
        elif node.op_type in ("Slice", "Gather") and index > 0:
            operands.append(value)
        elif element_wise and values is not None and _broadcasts(values, shape):
            operands.append(constant(node.graph, values.transpose(HEADS), f"{value.name}.tokens"))  # type: ignore[union-attr]
        elif element_wise and values is not None and _is_same_for_all(values, shape, output):
            operands.append(value)
        elif element_wise and values is None and own == [1, 1, *shape[2:]]:
            operands.append(_one_head(value, node))  # type: ignore[arg-type]
        else:
            return False
    parted = [shape[axis] for axis in HEADS]
    attributes = dict(node.attributes)
    if node.op_type in ("Concat", "Gather"):
        attributes = {"axis": ir.AttrInt64("axis", 3)}
    result = make(node.op_type, operands, before=node, like=output, shape=parted, attributes=attributes)
    heads = {"perm": ir.AttrInt64s("perm", HEADS)}
    replace_output(output, make("Transpose", [result], before=node, like=output, shape=shape, attributes=heads))
    return True


def _is_same_for_all(values: np.ndarray, shape: list[int | None], output: ir.Value) -> bool:
    """Signs of the last axis; a scale of what is rotated afterwards: any other is the attention's, behind the heads."""
    is_rotated = any(reader.op_type in ("Slice", "Gather") for reader in output.consumers())
    return values.shape == (shape[3],) or (values.size == 1 and is_rotated)


def _before_heads(value: ir.Value | None) -> ir.Value | None:
    """[1, T, H, d] where the value is its transpose."""
    source = value.producer() if value is not None else None
    parts_heads = source is not None and source.op_type == "Transpose" and ints(source, "perm") == HEADS
    return source.inputs[0] if source is not None and parts_heads else None


def _one_head(value: ir.Value, node: ir.Node) -> ir.Value:
    """A tensor [1, 1, T, d] that all heads share, as [1, T, 1, d]."""
    assert node.graph is not None
    shape = [dims(value)[axis] for axis in HEADS]
    sizes = constant(node.graph, np.array(shape), "one_head", np.int64)
    return make("Reshape", [value, sizes], before=node, like=value, shape=shape)


def _broadcasts(values: np.ndarray, shape: list[int | None]) -> bool:
    """Whether a constant of four dimensions, more than a number, has 1 or the tensor's size in each."""
    fits = values.ndim == 4 and all(own in (1, size) for own, size in zip(values.shape, shape, strict=True))
    return fits and values.size > 1


def _on_the_last_axis(node: ir.Node) -> bool:
    if node.op_type == "Concat":
        return attribute(node, "axis", 0) in (-1, 3)
    if node.op_type == "Gather":
        return attribute(node, "axis", 0) in (-1, 3) and array(node.inputs[1]) is not None
    if node.op_type == "Slice":
        axes = array(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is not None and bool(np.isin(axes, (-1, 3)).all())
    return node.op_type in ("Mul", "Add", "Neg")
