"""Dequantise an embedding table before it is read, so that it is a dequantised constant like every weight.

    DequantizeLinear(Gather(Q, ids), s, z)  ->  Gather(DequantizeLinear(Q, s, z), ids)      s and z numbers

The compiler looks up integers all the same.
"""

import onnx_ir as ir

from passes.graph import array, make, replace_output, used_once
from passes.options import Options
from passes.report import Outcome


def recognise_quantized_tables(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        if node.op_type != "DequantizeLinear" or any(_size(value) != 1 for value in node.inputs[1:]):
            continue
        lookup = node.inputs[0].producer() if node.inputs[0] is not None else None
        if lookup is None or lookup.op_type != "Gather" or not used_once(lookup.outputs[0]):
            continue
        stored, ids = lookup.inputs
        if stored is None or array(stored) is None:
            continue
        like = ir.Value(shape=stored.shape, type=ir.TensorType(ir.DataType.FLOAT))
        table = make("DequantizeLinear", [stored, *node.inputs[1:]], before=lookup, like=like)
        flags = dict(lookup.attributes.items())
        made = make("Gather", [table, ids], before=node, like=node.outputs[0], attributes=flags)
        replace_output(node.outputs[0], made)
        applied += 1
    return Outcome(applied)


def _size(value: ir.Value | None) -> int:
    values = array(value)
    return 1 if value is None else 0 if values is None else int(values.size)
