"""Padding at the ends of one axis is a concatenation, which later passes and kernels know.

    Pad(x, [before, after] of one axis, c)  ->  Concat(c …, x, c …)

MobileBERT's three tokens side by side, as transformers writes them, begin with two of these.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.graph import array, constant, dims, make, replace_output
from passes.options import Options
from passes.report import Outcome

MOST = 1 << 16  # elements of a constant that is written for it


def pad_by_concat(model: ir.Model, options: Options) -> Outcome:
    applied = 0
    for node in list(model.graph):
        if node.op_type == "Pad" and (parts := _parts(model.graph, node)) is not None:
            axis, values = parts
            attributes = {"axis": ir.AttrInt64("axis", axis)}
            result = make("Concat", values, before=node, like=node.outputs[0], attributes=attributes)
            replace_output(node.outputs[0], result)
            applied += 1
    RemoveUnusedNodesPass()(model)
    return Outcome(applied)


def _parts(graph: ir.Graph, node: ir.Node) -> tuple[int, list[ir.Value | None]] | None:
    """The axis, and what is put side by side along it; None where more than that happens, or not all is known."""
    x, pads, number, axes = [*node.inputs, None, None, None][:4]
    mode, shape = node.attributes.get("mode"), dims(x)
    values = [array(value) for value in (pads, number, axes)]
    known = all(value is None or v is not None for value, v in zip((pads, number, axes), values, strict=True))
    if x is None or x.dtype is None or not shape or None in shape or values[0] is None or not known:
        return None
    if mode is not None and mode.as_string() != "constant":
        return None
    at = range(len(shape)) if values[2] is None else [int(axis) % len(shape) for axis in values[2]]
    amounts = {axis: pair for axis, pair in zip(at, values[0].reshape(2, -1).T.tolist(), strict=True) if any(pair)}
    if len(amounts) != 1:
        return None
    ((axis, pair),) = amounts.items()
    sizes = [[amount if i == axis else size for i, size in enumerate(shape)] for amount in pair]
    if min(pair) < 0 or max(np.prod(size) for size in sizes) > MOST:  # type: ignore[arg-type]
        return None
    kind, fill = x.dtype.numpy().type, 0 if values[1] is None else values[1].item()
    before, after = ([constant(graph, np.full(s, fill), f"{node.name}.pad", kind)] if 0 not in s else [] for s in sizes)  # type: ignore[arg-type]
    return axis, [*before, x, *after]
