"""Scatters that write everything, or nothing.

    ScatterND(x, [[0], [1], … [n−1]], u), x of n rows  ->  u
    ScatterND(x, no indices, u)                        ->  x

X-MOD's adapters write the rows of their language: of one text that is all rows, or none.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.drop_gathers import in_order
from passes.graph import array, dims, replace_output
from passes.options import Options
from passes.report import Outcome


def drop_scatters(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        if node.op_type == "ScatterND" and (result := _result(node)) is not None:
            replace_output(node.outputs[0], result)
            applied += 1
    RemoveUnusedNodesPass()(model)
    return Outcome(applied)


def _result(node: ir.Node) -> ir.Value | None:
    x, indices, updates = node.inputs[:3]
    places, reduction = array(indices), node.attributes.get("reduction")
    if places is None or (reduction is not None and reduction.as_string() != "none"):
        return None
    if places.size == 0:
        return x
    return updates if in_order(places, dims(x)) and dims(updates) == dims(x) else None
