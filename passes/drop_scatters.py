"""Scatters that write everything, or nothing.

    ScatterND(x, [[0], [1], … [n−1]], u), x of n rows  ->  u, in the shape of x
    ScatterND(x, no indices, u)                        ->  x

X-MOD's adapters write the rows of their language: of one text that is all rows, or none.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.drop_gathers import in_order
from passes.graph import array, constant, dims, make, replace_output
from passes.options import Options
from passes.report import Outcome


def drop_scatters(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        if node.op_type == "ScatterND" and (result := _result(model.graph, node)) is not None:
            replace_output(node.outputs[0], result)
            applied += 1
    RemoveUnusedNodesPass()(model)
    return Outcome(applied)


def _result(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    x, indices, updates = node.inputs[:3]
    places, reduction = array(indices), node.attributes.get("reduction")
    if places is None or (reduction is not None and reduction.as_string() != "none"):
        return None
    if places.size == 0:
        return x
    shape = dims(x)
    if updates is None or None in shape or not in_order(places, shape):
        return None
    if dims(updates) == shape:
        return updates
    target = constant(graph, np.array(shape), f"{node.name}.shape", np.int64)
    return make("Reshape", [updates, target], before=node, like=node.outputs[0])
