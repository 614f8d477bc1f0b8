"""Compute what depends on shapes alone, now that they are known: onnxscript's folding of constants.

onnxsim stops at a shape that it cannot infer itself, so exports with dynamic axes keep Shape, Gather and Concat in
front of their reshapes, also where those axes have been fixed since. Large constants are left alone: nothing grows.
A Reshape or Expand that turns out to change nothing goes.
"""

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

from passes.graph import dims, infer_shapes, replace_output
from passes.options import Options
from passes.report import Outcome
from pocketbert.silence import silent


def fold_shapes(model: ir.Model, options: Options) -> Outcome:
    before = len(model.graph)
    with silent():  # it logs what it cannot evaluate, which stays as it is
        fold_constants(model, onnx_shape_inference=True)
    infer_shapes(model)
    for node in list(model.graph):
        if node.op_type in ("Reshape", "Expand") and (x := node.inputs[0]) is not None:
            shape = dims(x)
            if shape and None not in shape and shape == dims(node.outputs[0]):
                replace_output(node.outputs[0], x)
    RemoveUnusedNodesPass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    infer_shapes(model)
    return Outcome(max(0, before - len(model.graph)))
