"""Make attention masks finite: constants below `mask_value`, −inf included, are raised to it.

softmax(s + m) is the same for every m below −1e9 where a row keeps one key and scores stay within ±1e8: exp underflows
to 0 either way. With a finite mask softmax makes no NaN, so the guard Where(IsNaN(p), 0, p) goes too. (A row whose keys
are all masked becomes uniform; with −inf it was NaN, or 0 behind the guard. No such row is read by a kept position.)
Not where a guard stands behind a mask that differs from query to query, as local attention's over padding does: there
a query without a key is nothing rare.

Only where attention is fused: the compiler, which gets it as products, computes −inf and the guard as they stand.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from passes.graph import array, constant, is_float, replace_output, scalar
from passes.options import Options
from passes.report import Outcome

CARRIERS = {"Where", "Mul", "Add", "Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Slice", "Cast"}


def finite_mask(model: ir.Model, options: Options) -> Outcome:
    if options.attention == "matmuls":
        return Outcome(0)
    clipped = guards = 0
    for value in list(model.graph.initializers.values()):
        values = array(value)
        if values is None or not is_float(value) or not values.size or not values.min() < options.mask_value:
            continue
        if _softmaxes([value]):
            uses = [use for use in value.uses() if not _may_hide_every_key(use.node)]
            raised = constant(model.graph, np.maximum(values, options.mask_value), f"{value.name}") if uses else None
            for reader, index in uses:
                reader.replace_input_with(index, raised)
            clipped += bool(uses)
    for node in list(model.graph):
        kept = _guarded(node)
        if kept is not None:
            replace_output(node.outputs[0], kept)
            guards += 1
    RemoveUnusedNodesPass()(model)
    return Outcome(clipped + guards, {"constants": clipped, "nan_guards": guards})


def _softmaxes(values: Sequence[ir.Value]) -> list[ir.Node]:
    """Those that values get to through operators that make masks; none where they get to anything else."""
    found, waiting, seen = [], [*values], {*values}
    while waiting:
        for reader in waiting.pop().consumers():
            if reader.op_type == "Softmax":
                found.append(reader)
            elif reader.op_type in CARRIERS:
                fresh = [output for output in reader.outputs if output not in seen]
                seen.update(fresh)
                waiting += fresh
            else:
                return []
    return found


def _may_hide_every_key(node: ir.Node) -> bool:
    """Whether a Where makes a mask that differs from query to query, and a guard says what one without keys gets."""
    if node.op_type != "Where" or not _differs_by_query(node.inputs[0]):
        return False
    readers = [reader for softmax in _softmaxes(node.outputs) for reader in softmax.outputs[0].consumers()]
    return any(reader.op_type == "IsNaN" for reader in readers)


def _differs_by_query(condition: ir.Value | None) -> bool:
    """As far as shapes tell; what one row for all queries is expanded to does not."""
    if condition is None or array(condition) is not None:
        return False
    node = condition.producer()
    if node is not None and node.op_type in ("Expand", "Cast", "Not"):
        return _differs_by_query(node.inputs[0])
    return condition.shape is None or (len(condition.shape) > 1 and condition.shape[-2] != 1)


def _guarded(node: ir.Node) -> ir.Value | None:
    """p in Where(IsNaN(p), 0, p) behind a Softmax whose mask is finite."""
    if node.op_type != "Where" or scalar(node.inputs[1]) != 0:
        return None
    test, kept = node.inputs[0], node.inputs[2]
    check = test.producer() if test is not None else None
    softmax = kept.producer() if kept is not None else None
    if check is None or softmax is None or check.op_type != "IsNaN" or check.inputs[0] is not kept:
        return None
    return kept if softmax.op_type == "Softmax" and _finite(softmax.inputs[0]) else None


def _finite(value: ir.Value | None) -> bool:
    """Whether no constant behind a value is infinite or NaN, through operators that make masks."""
    values = array(value)
    if values is not None:
        return bool(np.isfinite(values).all())
    node = value.producer() if value is not None else None
    return node is None or node.op_type not in CARRIERS or all(_finite(v) for v in node.inputs if v is not None)
