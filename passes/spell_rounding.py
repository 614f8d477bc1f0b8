"""What int8 kernels answer, for ONNX Runtime: every linear with int8 weights gets its rows rounded by operators.

    lo = min(0, min x)   hi = max(0, max x)   r = max(hi − lo, 2⁻¹⁰⁰)   z = ⌊−lo · 254 / r⌉
    MatMul(x, DequantizeLinear(Q, s))  ->  MatMul((⌊x · 254 / r + z⌉ − z) · r / 254, DequantizeLinear(Q, s))

This is a referee, not a rewrite: kernels sum integers, exactly, where ONNX Runtime sums floats, so that rows may round
differently where a sum is almost a tie. Rows whose integers the file has fixed are not rounded again.
"""

import numpy as np
import onnx
import onnx_ir as ir

from passes.canonical_weights import channel_axis
from passes.graph import array, constant, make
from passes.rename import rename_nodes

STEPS = 254
SMALL = (ir.DataType.INT8, ir.DataType.UINT8)


def spell_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an optimised model (opset 18 or later) with the rounding of the kernels written out."""
    copy = ir.from_proto(model)
    rounded: dict[ir.Value, ir.Value] = {}
    for node in list(copy.graph):
        x = node.inputs[0] if is_int8_linear(node) else None
        if x is None or is_static(x):
            continue
        if x not in rounded:
            rounded[x] = _round_rows(copy.graph, x, node)
        node.replace_input_with(0, rounded[x])
    rename_nodes(copy.graph)
    return ir.to_proto(copy)


def is_int8_linear(node: ir.Node) -> bool:
    """Whether the node multiplies by a dequantised int8 constant, transposed or not."""
    if node.op_type not in ("MatMul", "Gemm") or node.inputs[1] is None:
        return False
    turned = _made_by(node.inputs[1], "Transpose")
    matrix = turned.inputs[0] if turned else node.inputs[1]
    maker = _made_by(matrix, "DequantizeLinear")
    stored = array(maker.inputs[0]) if maker else None
    return stored is not None and stored.dtype == np.int8 and matrix is not None and channel_axis(matrix) is not None


def is_static(x: ir.Value) -> bool:
    """Whether x, seen through reshapes, is 8-bit integers by one constant scale: kernels take those as they are."""
    while reshape := _made_by(x, "Reshape"):
        assert reshape.inputs[0] is not None
        x = reshape.inputs[0]
    maker = _made_by(x, "DequantizeLinear")
    scale = array(maker.inputs[1]) if maker else None
    small = maker is not None and maker.inputs[0] is not None and maker.inputs[0].dtype in SMALL
    return small and scale is not None and scale.size == 1


def _made_by(value: ir.Value | None, op: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op else None


def _round_rows(graph: ir.Graph, x: ir.Value, before: ir.Node) -> ir.Value:
    def number(value: float) -> ir.Value:
        return constant(graph, np.array(value), "rounding")

    def op(name: str, *inputs: ir.Value) -> ir.Value:
        return make(name, inputs, before=before, like=ir.Value(type=ir.TensorType(ir.DataType.FLOAT)))

    last = constant(graph, np.array([-1]), "last", np.int64)
    low = op("Min", op("ReduceMin", x, last), number(0))
    high = op("Max", op("ReduceMax", x, last), number(0))
    span = op("Max", op("Sub", high, low), number(2.0**-100))
    inverse, scale = op("Div", number(STEPS), span), op("Mul", span, number(1 / STEPS))
    zero = op("Round", op("Mul", op("Neg", low), inverse))
    steps = op("Round", op("Add", op("Mul", x, inverse), zero))
    return op("Mul", op("Sub", steps, zero), scale)
