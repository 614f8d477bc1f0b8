"""merge_branches: If becomes a branch, or both and a choice."""

import numpy as np
import pytest
from onnx import TensorProto, helper


def branch(op, x, shape, name="result", kind=TensorProto.FLOAT, weight=None):
    """y = op(x), or op(x, weight) with a constant of the branch's own."""
    held = [helper.make_tensor("weight", TensorProto.FLOAT, [1], [weight])] if weight else []
    nodes = [helper.make_node(op, [x, "weight"] if weight else [x], [name])]
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(name, kind, shape)], held)


def choose(b, condition, shape=(4, 5), **branches):
    x = b.input("x", [4, 5])
    made = {f"{name}_branch": branch(op, x, shape, **rest) for name, (op, rest) in branches.items()}
    return b("If", condition, **made)


@pytest.mark.parametrize(("truth", "kept"), [(True, "Exp"), (False, "Neg")])
def test_a_known_condition_leaves_one_branch(build, check, ops, applied, truth, kept):
    b = build()
    y = choose(b, b.const(np.array([truth])), then=("Exp", {}), **{"else": ("Neg", {})})
    result, report = check(b.model(b("Abs", y)), "merge_branches")
    assert [node.op_type for node in result.graph.node] == [kept, "Abs"]
    assert applied(report, "merge_branches") == 1


def test_an_unknown_condition_chooses_among_both(build, check, ops):
    """The names in the branches, and those of their constants, are the same."""
    b = build()
    flag = b.input("flag", [1], TensorProto.BOOL)
    y = choose(b, flag, then=("Add", {"weight": 2.0}), **{"else": ("Mul", {"weight": 3.0})})
    result, _ = check(b.model(y, b("Neg", y)), "merge_branches")
    assert ops(result, "If") == 0
    assert ops(result, "Add", "Mul", "Where") == 3
    assert result.graph.output[0].name == y


def test_a_choice_inside_a_branch_is_merged_as_well(build, check, ops):
    b = build()
    flag, x = b.input("flag", [1], TensorProto.BOOL), b.input("x", [4, 5])
    info = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [4, 5])
    pair = {"then_branch": branch("Exp", x, [4, 5], "e"), "else_branch": branch("Neg", x, [4, 5], "n")}
    inner = helper.make_graph([helper.make_node("If", [flag], ["inner"], **pair)], "outer", [], [info])
    y = b("If", flag, then_branch=inner, else_branch=branch("Tanh", x, [4, 5], "t"))
    result, _ = check(b.model(y), "merge_branches")
    assert ops(result, "If") == 0
    assert ops(result, "Where") == 2


@pytest.mark.parametrize("different", ["shape", "type", "sequence"])
def test_branches_whose_results_differ_stay(build, ops, different):
    import passes

    b = build()
    flag, x = b.input("flag", [1], TensorProto.BOOL), b.input("x", [4, 5])
    other = branch("Neg", x, [4, 5], "n")
    if different == "shape":
        other = branch("ReduceSum", x, [1, 1], "n")
    elif different == "type":
        other = branch("IsNaN", x, [4, 5], "n", kind=TensorProto.BOOL)
    then = branch("Exp", x, [4, 5], "e")
    if different == "sequence":
        info = helper.make_tensor_sequence_value_info("e", TensorProto.FLOAT, [4, 5])
        then, other = (
            helper.make_graph([helper.make_node("SequenceConstruct", [x], ["e"])], "branch", [], [info])
            for _ in range(2)
        )
    y = b("If", flag, then_branch=then, else_branch=other)
    result, report = passes.run(b.model(y), only=["merge_branches"], verify=False)
    assert ops(result, "If") == 1
    (refusal,) = next(entry for entry in report.passes if entry.name == "merge_branches").refusals
    assert "results" in refusal.reason or "branches" in refusal.reason
