"""Bring dequantised constants to one form: int8 with zero point 0 and a scale for each column (of a table, each row).

    s (q − z)          ->  s p, p = q − z, where every p is in [−128, 127]: uint8 with zero point 128
    one scale for all  ->  as many equal ones
    all else           ->  a float32 constant: biases in int32, other zero points, scales along the summed axis

The last kind is listed where it is the weight of a linear or a table.
"""

import numpy as np
import onnx_ir as ir

from passes.graph import array, attribute, constant, dequantized, ints
from passes.options import Options
from passes.report import Outcome, Refusals


def canonical_weights(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    counts = {"int8": 0, "float32": 0}
    for node in list(model.graph):
        constants = [value for value in node.inputs if value is not None]
        if node.op_type == "DequantizeLinear" and all(array(value) is not None for value in constants):
            kind = _rewrite(model.graph, node, refusals)
            if kind:
                counts[kind] += 1
    return Outcome(sum(counts.values()), counts, refusals.all())


def _rewrite(graph: ir.Graph, node: ir.Node, refusals: Refusals) -> str:
    """Replace what the node makes; the new type, or nothing where it has the form already."""
    values, scale, *rest = (array(value) for value in node.inputs)
    assert values is not None
    assert scale is not None
    zero = rest[0] if rest and rest[0] is not None else np.zeros(scale.shape, values.dtype)
    axis = int(attribute(node, "axis", 1)) % max(values.ndim, 1)
    steps = values.astype(np.int32) - _along(zero.astype(np.int32), values, axis)
    output, name, apart = node.outputs[0], f"{node.inputs[0].name}", channel_axis(node.outputs[0])  # type: ignore[union-attr]
    if apart is None or (reason := _unfit(steps, scale, axis, apart)):
        if apart is not None:
            refusals.add(f"{reason}: the weight becomes float32", name)
        floats = (steps * _along(scale, values, axis)).astype(np.float32)
        output.replace_all_uses_with(constant(graph, floats, f"{name}.float32"))
        return "float32"
    if values.dtype == np.int8 and scale.size == values.shape[apart] and axis == apart and not zero.any():
        return ""
    scales = np.broadcast_to(scale.reshape(-1), values.shape[apart])
    output.replace_all_uses_with(dequantized(graph, name, steps, scales, apart))
    return "int8"


def channel_axis(value: ir.Value) -> int | None:
    """The axis of a matrix that its readers, linears or lookups, do not sum over; None where they are anything else."""
    if value.shape is None or len(value.shape) != 2 or value.is_graph_output():
        return None
    axes = {_axis(node, value) for node in value.consumers()}
    return axes.pop() if len(axes) == 1 else None


def _axis(node: ir.Node, value: ir.Value) -> int | None:
    if node.op_type == "Transpose" and ints(node, "perm") in (None, [1, 0]):
        axis = channel_axis(node.outputs[0])
        return None if axis is None else 1 - axis
    if node.op_type == "Gather" and attribute(node, "axis", 0) == 0 and node.inputs[0] is value:
        return 0
    if node.op_type in ("MatMul", "Gemm") and node.inputs[1] is value and node.inputs[0] is not value:
        return 0 if attribute(node, "transB", 0) else 1
    return None


def _unfit(steps: np.ndarray, scale: np.ndarray, axis: int, apart: int) -> str:
    """Why s (q − z) has no canonical form."""
    if steps.min(initial=0) < -128 or steps.max(initial=0) > 127:
        return "a zero point takes its integers out of int8"
    return "its scales run along the summed axis" if scale.size > 1 and axis != apart else ""


def _along(vector: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    """A scale or zero point, one for all or one for each slice along `axis`, shaped to broadcast."""
    if vector.size == 1:
        return vector.reshape(())
    return vector.reshape([-1 if index == axis else 1 for index in range(values.ndim)])
