"""Put attention's 1/√d into the weights of the query projection.

    s · (q kᵀ)  =  (s q) kᵀ,    (s₁ q)(s₂ k)ᵀ  =  (s₁ s₂ q) kᵀ,    s (x W + b)  =  x (s W) + s b

Reshape and Transpose between the projection and the product hand the factor on. One of q and k must be made by a linear
that nobody else reads.
"""

import numpy as np
import onnx_ir as ir

from passes import linear
from passes.graph import array, is_float, replace_output, scalar, used_once
from passes.linear import Linear
from passes.options import Options
from passes.report import Outcome, Refusals


def fold_attention_scale(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    applied = 0
    for node in list(model.graph):
        scaled = _match(node)
        if scaled is None:
            continue
        value, factor = scaled
        target = _projection_behind(value)
        if target is None:
            if _is_product(value) or _feeds_product(node.outputs[0]):
                refusals.add("neither factor comes from a linear with one reader", node.name or "")
            continue
        target.set_matrix(target.matrix() * factor)
        if target.bias is not None:
            target.set_vector(target.vector() * factor)
        replace_output(node.outputs[0], value)
        model.graph.remove(node, safe=True)
        applied += 1
    return Outcome(applied, refusals=refusals.all())


def _match(node: ir.Node) -> tuple[ir.Value, float] | None:
    """(x, s) for Mul(x, s), Mul(s, x) and Div(x, 1/s) with a finite scalar s."""
    if node.op_type not in ("Mul", "Div") or not is_float(node.outputs[0]):
        return None
    first, second = node.inputs
    if node.op_type == "Mul" and scalar(first) is not None:
        first, second = second, first
    number = scalar(second)
    values = array(second)
    if first is None or number is None or values is None or array(first) is not None or first.shape is None:
        return None
    if values.ndim > len(first.shape) or (node.op_type == "Div" and number == 0) or not np.isfinite(number):
        return None
    return first, number if node.op_type == "Mul" else 1 / number


def _projection_behind(value: ir.Value) -> Linear | None:
    """The linear whose weights can take the factor: that of q first, else that of k."""
    node = value.producer()
    if node is None or not used_once(value):
        return None
    matched = linear.match(node)
    if matched:
        return matched if linear.may_change(matched) else None
    if node.op_type in ("Reshape", "Transpose"):
        return _projection_behind(node.inputs[0]) if node.inputs[0] is not None else None
    if node.op_type == "Add":  # the bias of a linear written as MatMul and Add cannot follow
        return None
    if _is_product(value):
        for operand in node.inputs:
            projection = _projection_behind(operand) if operand is not None else None
            if projection is not None:
                return projection
    return None


def _is_product(value: ir.Value) -> bool:
    """Whether the value is q kᵀ: a MatMul of two computed tensors."""
    node = value.producer()
    return node is not None and node.op_type == "MatMul" and all(array(operand) is None for operand in node.inputs)


def _feeds_product(value: ir.Value) -> bool:
    seen = value
    while used_once(seen) and seen.consumers()[0].op_type in ("Transpose", "Reshape"):
        seen = seen.consumers()[0].outputs[0]
    return any(_is_product(user.outputs[0]) for user in seen.consumers())
