"""If becomes the branch that it takes, or both of them and a choice where only a run can tell.

    If(true) {A} else {B}  ->  A
    If(c) {A} else {B}     ->  Where(c, A, B)

Branches have no effects, so both may be computed; their results must have one shape and one type.
"""

import onnx_ir as ir

from passes.fold_shapes import fold_shapes
from passes.graph import array, constant, dims, make, replace_output, scalar
from passes.options import Options
from passes.report import Outcome, Refusals


def merge_branches(model: ir.Model, options: Options) -> Outcome:
    refusals, applied = Refusals(), 0
    waiting = [node for node in model.graph if node.op_type == "If"]
    while waiting:
        node = waiting.pop()
        condition = node.inputs[0]
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        if (known := scalar(condition)) is not None:
            branches = branches[:1] if known else branches[1:]
        elif reason := _differ(*branches):
            refusals.add(reason, node.name or "")
            continue
        results = [_moved(branch, node, waiting) for branch in branches]
        for output, *values in zip(node.outputs, *results, strict=True):
            if len(values) == 2:
                values = [make("Where", [condition, *values], before=node, like=values[0])]
            replace_output(output, values[0])
        model.graph.remove(node, safe=True)
        applied += 1
    if applied:
        fold_shapes(model, options)
    return Outcome(applied, refusals=refusals.all())


def _differ(first: ir.Graph, second: ir.Graph) -> str | None:
    for one, other in zip(first.outputs, second.outputs, strict=True):
        if not isinstance(one.type, ir.TensorType) or not isinstance(other.type, ir.TensorType):
            return "its results are no tensors"
        shapes = [None if value.shape is None else dims(value) for value in (one, other)]
        if shapes[0] is None or None in shapes[0] or shapes[0] != shapes[1] or one.dtype != other.dtype:
            return "its branches differ in shape or type, or their shapes are not known"
    return None


def _moved(branch: ir.Graph, node: ir.Node, waiting: list[ir.Node]) -> list[ir.Value]:
    """The results of a branch whose nodes now stand in front of the If."""
    graph = node.graph
    assert graph is not None
    for value in list(branch.initializers.values()):
        values = array(value)
        assert values is not None
        value.replace_all_uses_with(constant(graph, values, value.name or "constant", values.dtype.type))
    results = list(branch.outputs)
    branch.outputs.clear()
    for inner in list(branch):
        branch.remove(inner)
        for output in inner.outputs:
            output.name = None
        graph.insert_before(node, inner)
        if inner.op_type == "If":
            waiting.append(inner)
    return results
