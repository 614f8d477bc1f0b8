"""Lookups that need none: in their own order, and among equals; slices of everything.

    Gather(x, [[0, 1, …, n−1]]), x of n rows; GatherND too    ->  Reshape(x)
    Slice(x, …), nothing cut off and forwards                 ->  x
    GatherElements(c, i) or Gather(c, i), all of c the same   ->  that constant

transformers makes its masks by the first, RoBERTa's token types by the last, and LUKE and XLM cut off what is not
there. An index outside c, which ONNX
Runtime refuses, is not refused any more.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.graph import array, attribute, constant, dims, make, replace_output
from passes.options import Options
from passes.report import Outcome

MOST = 1 << 20  # elements of a constant that takes a lookup's place


def drop_gathers(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        if node.op_type == "Slice":
            result = _uncut(node)
        elif node.op_type in ("Gather", "GatherND", "GatherElements"):
            result = _equals(model.graph, node) or _everything(model.graph, node)
        else:
            continue
        if result is not None:
            replace_output(node.outputs[0], result)
            applied += 1
    RemoveUnusedNodesPass()(model)
    return Outcome(applied)


def _uncut(node: ir.Node) -> ir.Value | None:
    """Its operand where every axis stays as long as it is: with steps forwards that is all of it."""
    x, steps = node.inputs[0], array(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    shape = dims(x)
    uncut = shape and None not in shape and shape == dims(node.outputs[0]) and steps is not None and (steps > 0).all()
    return x if uncut else None


def _equals(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    values, shape = array(node.inputs[0]), dims(node.outputs[0])
    if values is None or not values.size or not shape or None in shape or (values != values.flat[0]).any():
        return None
    sizes = [size for size in shape if size is not None]
    if np.prod(sizes) > max(MOST, values.size):
        return None
    return constant(graph, np.full(sizes, values.flat[0]), f"{node.name}.constant", values.dtype.type)


def _everything(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    x, indices, shape = node.inputs[0], array(node.inputs[1]), dims(node.outputs[0])
    if x is None or indices is None or not indices.size or None in shape or node.op_type == "GatherElements":
        return None
    if node.op_type == "Gather":
        if attribute(node, "axis", 0) != 0:
            return None
        indices = indices.reshape(-1, 1)
    elif attribute(node, "batch_dims", 0) != 0:
        return None
    if not in_order(indices, dims(x)):
        return None
    target = constant(graph, np.array(shape), f"{node.name}.shape", np.int64)
    return make("Reshape", [x, target], before=node, like=node.outputs[0])


def in_order(indices: np.ndarray, shape: list[int | None]) -> bool:
    """Whether places (…, k) are all those of the first k axes, in the order in which they lie."""
    sizes = [size for size in shape[: indices.shape[-1]] if size is not None]
    if len(sizes) != indices.shape[-1] or indices.size != np.prod(sizes) * len(sizes):
        return False
    every = np.indices(sizes).reshape(len(sizes), -1).T
    return np.array_equal(indices.reshape(every.shape) % np.array(sizes), every)
