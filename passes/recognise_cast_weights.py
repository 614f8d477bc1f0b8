"""Read a constant that is cast to float and multiplied by scales as what it is, a DequantizeLinear.

Cast(Q) ∘ s  ->  DequantizeLinear(Q, s, axis)      s a number, or one for each row or column of Q
"""

import numpy as np
import onnx_ir as ir

from passes.graph import array, constant, make, replace_output, used_once
from passes.options import Options
from passes.report import Outcome

SMALL = (ir.DataType.INT8, ir.DataType.UINT8)


def recognise_cast_weights(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        if node.op_type == "Mul" and node.domain in ("", "ai.onnx"):
            applied += any(_rewrite(model.graph, node, *pair) for pair in (node.inputs, node.inputs[::-1]))
    return Outcome(applied)


def _rewrite(graph: ir.Graph, node: ir.Node, product: ir.Value | None, factor: ir.Value | None) -> bool:
    cast = product.producer() if product is not None else None
    scale = array(factor)
    if cast is None or cast.op_type != "Cast" or scale is None or not used_once(cast.outputs[0]):
        return False
    stored = cast.inputs[0]
    values = array(stored)
    if stored is None or values is None or values.ndim != 2 or stored.dtype not in SMALL or scale.dtype != np.float32:
        return False
    rows, columns = values.shape
    shape = (1,) * (2 - scale.ndim) + scale.shape
    if shape not in ((1, 1), (rows, 1), (1, columns)):
        return False
    axis = 0 if shape == (rows, 1) else 1
    vector = constant(graph, scale.reshape(-1) if scale.size > 1 else scale.reshape(()), f"{stored.name}.scale")
    flags = {"axis": ir.AttrInt64("axis", axis)}
    replace_output(
        node.outputs[0],
        make("DequantizeLinear", [stored, vector], before=node, like=node.outputs[0], attributes=flags),
    )
    return True
