"""Give a value another scale and shift by changing the constants of whatever writes it.

A linear takes s ∘ (x W + b) + t as x (W diag(s)) + (s ∘ b + t); a sum passes s to both its operands and t to one; a
constant and the rows of a table are multiplied; operators that keep the last axis pass both on.
"""

import numpy as np
import onnx_ir as ir

from passes import linear
from passes.graph import array, attribute, constant, is_float, last_dim, used_once


def can_scale(value: ir.Value, *, private: bool = False) -> bool:
    """Whether every writer of the value can take a scale. private: the caller knows that the value has one reader."""
    if array(value) is not None:
        return is_float(value)
    node = value.producer()
    if node is None or not is_float(value) or not (private or used_once(value)):
        return False
    matched = linear.match(node)
    if matched:
        return linear.may_change(matched)
    if node.op_type == "Add":
        size = last_dim(value)
        return all(v is not None and last_dim(v) == size and can_scale(v) for v in node.inputs)
    if node.op_type == "Gather":
        return _table(node) is not None
    x = passed_on(node)
    return x is not None and can_scale(x)


def scale(value: ir.Value, factors: np.ndarray, reader: ir.Node) -> ir.Value:
    """Multiply the last axis by `factors` in the writers; call after can_scale. Returns the value to read instead."""
    values = array(value)
    if values is not None:
        return constant(_graph(reader), values * factors, f"{value.name}")
    node = value.producer()
    assert node is not None
    matched = linear.match(node)
    if matched:
        matched.set_matrix(matched.matrix() * factors)
        if matched.bias is not None:
            matched.set_vector(matched.vector() * factors)
        return value
    for index, operand in enumerate(node.inputs):
        if operand is not None and (index == 0 or node.op_type == "Add"):
            node.replace_input_with(index, scale(operand, factors, node))
    return value


def add_shift(value: ir.Value, shift: np.ndarray, *, private: bool = False) -> bool:
    """Add `shift` along the last axis in a writer that adds a constant already; whether there was one."""
    node = value.producer()
    if node is None or not (private or used_once(value)):
        return False
    matched = linear.match(node)
    if matched:
        if linear.takes_bias(matched):
            matched.set_vector(matched.vector() + shift)
        return linear.takes_bias(matched)
    if node.op_type == "Add":
        for index, operand in enumerate(node.inputs):
            values = array(operand)
            if values is not None and values.shape[-1:] == shift.shape:
                assert operand is not None
                node.replace_input_with(index, constant(_graph(node), values + shift, f"{operand.name}"))
                return True
        return False
    x = passed_on(node)
    return x is not None and add_shift(x, shift)


def passed_on(node: ir.Node) -> ir.Value | None:
    """The input whose last axis this node hands on whole and in order, whatever it does to the other axes."""
    if node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None or len(node.outputs) != 1:
        return None
    x = node.inputs[0]
    if x.shape is None or node.outputs[0].shape is None or not is_float(x):
        return None
    rank, size = len(x.shape), last_dim(x)
    if rank < 2 or size in (None, 1) or size != last_dim(node.outputs[0]):
        return None
    if node.op_type in ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Expand"):
        return x
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        return x if perm is not None and list(perm.as_ints())[-1] == rank - 1 else None
    if node.op_type == "Gather":
        return x if array(x) is None and attribute(node, "axis", 0) not in (-1, rank - 1) else None
    if node.op_type == "Slice":
        axes = array(node.inputs[3]) if len(node.inputs) > 3 else None
        return x if axes is not None and not {-1, rank - 1} & set(axes.tolist()) else None
    return None


def _table(node: ir.Node) -> ir.Value | None:
    """The constant table whose rows a Gather hands out, unless it is large and has other readers."""
    table = node.inputs[0]
    values = array(table)
    if table is None or values is None or values.ndim != 2 or attribute(node, "axis", 0) != 0:
        return None
    return table if values.size < linear.LARGE or len(table.uses()) == 1 else None


def _graph(node: ir.Node) -> ir.Graph:
    assert node.graph is not None
    return node.graph
