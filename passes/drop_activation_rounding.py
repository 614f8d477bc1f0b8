"""Round activations only where a linear with int8 weights reads them; everything else computes in float32.

    f(DequantizeLinear(QuantizeLinear(x, s, z), s, z))  ->  f(x)      f anything but such a linear

Where the zero point is the smallest integer, rounding cuts off what is negative: f reads Relu(x) then, since tools take
a Relu out that such a rounding follows. Saturation at the ends of a calibrated range is an error, not a function.

A static file rounds what softmax, norms and sums read, because its runtime computes those in integers. Kernels here
compute them in float32, so that the rounding would cost time and accuracy. Linears keep their static scales.
"""

import numpy as np
import onnx_ir as ir

from passes.graph import array, make, replace_output
from passes.options import Options
from passes.report import Outcome


def drop_activation_rounding(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        x = _rounded(node)
        if x is None:
            continue
        output = node.outputs[0]
        zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
        lowest = 0 if zero is None else np.iinfo(zero.dtype).min
        if (0 if zero is None else zero.item()) == lowest and not _is_positive(x):
            x = make("Relu", [x], before=node, like=x)
        others = [(reader, index) for reader, index in output.uses() if not _is_int8_linear(reader, index)]
        if output.is_graph_output() or len(others) == len(output.uses()):
            replace_output(output, x)
        for reader, index in others:
            reader.replace_input_with(index, x)
        applied += bool(others)
    return Outcome(applied)


def _rounded(node: ir.Node) -> ir.Value | None:
    """x where the node makes x again from integers by the same constant scale and zero point."""
    quantize = node.inputs[0].producer() if node.op_type == "DequantizeLinear" and node.inputs[0] is not None else None
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    for there, back in zip(quantize.inputs[1:], node.inputs[1:], strict=False):
        first, second = array(there), array(back)
        if first is None or second is None or first.size != 1 or not np.array_equal(first, second):
            return None
    return quantize.inputs[0]


def _is_positive(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type in ("Relu", "Softmax", "Sigmoid")


def _is_int8_linear(node: ir.Node, index: int) -> bool:
    """Whether the node reads its first factor there, and its second is a dequantised constant."""
    if node.op_type not in ("MatMul", "Gemm") or index != 0 or node.inputs[1] is None:
        return False
    matrix = node.inputs[1].producer()
    return matrix is not None and matrix.op_type == "DequantizeLinear" and array(matrix.inputs[0]) is not None
