"""Read ONNX Runtime's dynamic quantisation as a linear with int8 weights.

    q, s, z = DynamicQuantizeLinear(x)
    s · v ∘ Cast(MatMulInteger(q, Q, z, w))   ->   MatMul(x, DequantizeLinear(Q, v, w))

The integers and scales of the weights stay the file's own. How x is rounded is the kernels' business: they give each
row a scale and a zero point of its own, where the file has one for the whole tensor, so results come nearer to those
of the float model. What does not look like this stays as it is.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.errors import PassError
from passes.graph import array, constant, make, replace_output, used_once
from passes.options import Options
from passes.report import Outcome, Refusals


def recognise_dynamic_quantization(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    applied = 0
    for node in list(model.graph):
        if node.op_type != "MatMulInteger" or node.domain not in ("", "ai.onnx"):
            continue
        reason = _rewrite(model.graph, node)
        if reason:
            refusals.add(reason, node.name or "")
        applied += not reason
    if applied:
        RemoveUnusedNodesPass()(model)
    return Outcome(applied, refusals=refusals.all())


def _rewrite(graph: ir.Graph, node: ir.Node) -> str:
    """Replace the scaled product; why not, where that is impossible."""
    weight, x_zero, zero = ([*node.inputs, None, None])[1:4]
    values = array(weight)
    if values is None or values.ndim != 2 or weight is None:
        return "its second factor is no constant matrix"
    x, x_scale = _float_factor(node.inputs[0], x_zero)
    if x is None:
        return "its first factor has no float form"
    product, factors = _scaled(node.outputs[0])
    scales = [array(factor) for factor in factors if factor is not x_scale]
    if len(scales) != len(factors) - 1 or any(scale is None for scale in scales):
        return "its product is not multiplied by the scales of both factors"
    scale = np.prod(np.broadcast_arrays(*[s for s in scales if s is not None], np.float32(1)), axis=0)
    steps = np.zeros(1, values.dtype) if zero is None else array(zero)
    if steps is None or {scale.size, steps.size} - {1, values.shape[1]}:
        return "its weights have neither one scale and zero point nor one for each column"
    scale, steps = np.broadcast_arrays(scale.reshape(-1), steps.reshape(-1))
    if scale.size == 1:
        scale, steps = scale.reshape(()), steps.reshape(())
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise PassError(
            f"node {node.name!r} of {weight.name!r}: its scales hold zero, negative or infinite numbers; quantise again"
        )
    inputs = [weight, constant(graph, scale, f"{weight.name}.scale")]
    inputs.append(constant(graph, steps, f"{weight.name}.zero", values.dtype.type))
    like = ir.Value(shape=weight.shape, type=ir.TensorType(ir.DataType.FLOAT))
    matrix = make("DequantizeLinear", inputs, before=node, like=like, attributes={"axis": ir.AttrInt64("axis", 1)})
    end = product.producer()
    assert end is not None
    replace_output(product, make("MatMul", [x, matrix], before=end, like=product))
    return ""


def _float_factor(integers: ir.Value | None, zero: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """What the integers stand for, and their scale: they were quantised from it, or a lookup of them is dequantised."""
    maker = integers.producer() if integers is not None else None
    if maker is None or integers is None:
        return None, None
    if maker.op_type == "DynamicQuantizeLinear" and zero is maker.outputs[2]:
        return maker.inputs[0], maker.outputs[1]
    for reader in integers.consumers():
        if reader.op_type == "DequantizeLinear" and [*reader.inputs, None][2] is zero:
            return reader.outputs[0], reader.inputs[1]
    return None, None


def _scaled(product: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
    """Where the product goes through a Cast and multiplications to: that value, and its factors."""
    factors: list[ir.Value] = []
    while used_once(product):
        node = product.consumers()[0]
        if node.op_type == "Mul":
            other = next((value for value in node.inputs if value is not product), None)
            if other is None or not (new := [*_factors(other)]):
                break
            factors += new
        elif node.op_type != "Cast":
            break
        product = node.outputs[0]
    return product, factors


def _factors(value: ir.Value) -> Iterator[ir.Value]:
    node = value.producer()
    if node is None or node.op_type != "Mul":
        yield value
        return
    for operand in node.inputs:
        assert operand is not None
        yield from _factors(operand)
