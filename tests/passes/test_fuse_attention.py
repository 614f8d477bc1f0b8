"""fuse_attention: which products become the operator, and that they come back."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

import passes
from passes.fuse_attention import _changed_operator
from tests.support.attention import LENGTH, SIZE, attention

MATMULS = passes.Options(attention="matmuls")


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("rows", [None, 1, LENGTH])
def test_an_attention_becomes_one_operator_and_matmuls_again(build, check, ops, applied, rows, batch):
    b = build()
    mask = b.input("mask", [batch, 1, rows, LENGTH]) if rows else None
    x = b.input("x", [batch, LENGTH, SIZE])
    original = b.model(attention(b, attention(b, x, batch=batch, mask=mask), batch=batch, mask=mask))
    fused, report = check(original)
    assert ops(fused, "Attention") == applied(report, "fuse_attention") == 2
    assert ops(fused, "Transpose", "Softmax", "MatMul") == 0
    assert ops(fused, "Expand") == (rows == 1)  # one mask of full size for both
    again, _ = passes.run(fused)
    assert again.SerializeToString() == fused.SerializeToString()
    back, _ = check(fused, options=MATMULS)
    plain, _ = check(original, options=MATMULS)
    before, after = (Counter(node.op_type for node in model.graph.node) for model in (plain, back))
    # The operator gives zeros where a query has no key, which a mask that is an input may say.
    assert after - before == Counter({"ReduceMax": 1, "Equal": 1, "Where": 2} if rows else {})
    assert not before - after


def test_scores_that_somebody_else_reads_keep_their_matmuls(build, check, ops):
    b = build()
    y = attention(b, b.input("x", [2, LENGTH, SIZE]))
    weights = next(node.output[0] for node in b.nodes if node.op_type == "Softmax")
    result, report = check(b.model(y, weights))
    assert ops(result, "Attention") == 0
    (refused,) = (entry for entry in report.passes if entry.name == "fuse_attention")
    assert refused.refusals[0].reason.startswith("the scores or the heads have other readers")


def written(b, **changes):
    """An attention with no linears around it, as the pass wants it, but for `changes`."""
    keys = changes.get("keys", 9)
    wanted = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3], "merge": [0, 2, 1, 3], "axis": -1} | changes
    parts = {}
    for name, tokens in (("q", LENGTH), ("k", keys), ("v", keys)):
        x = b.input(name, [2, tokens, 8])
        sizes = b.const(np.array([2, tokens, 2, 4]))
        parts[name] = b("Transpose", b("Reshape", x, sizes), perm=wanted[name])
    scores = b("MatMul", parts["q"], parts["k"])
    if changes.get("scaled"):
        scores = b("Div", scores, b.const(2.0))
    if "mask" in changes:
        mask = b.input("mask", changes["mask"])
        scores = b("Add", *((mask, scores) if changes.get("first") else (scores, mask)))
    p = b("Softmax", scores, axis=wanted["axis"])
    weighted = b("MatMul", p, parts["v"])
    merged = b("Transpose", weighted, perm=wanted["merge"])
    y = b("Reshape", merged, b.const(np.array([2, -1, 8])))
    read = {"scores": scores, "probabilities": p, "weighted": weighted, "merged": merged}
    return b("Relu", y), [b("Tanh", read[name]) for name in changes.get("readers", ())]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"axis": 3},
        {"mask": [2, 1, LENGTH, 9]},
        {"mask": [2, 2, 1, 9]},
        {"mask": [1, 1, LENGTH, 9], "first": True},
    ],
    ids=str,
)
def test_queries_and_keys_may_be_of_other_lengths(build, check, ops, changes):
    b = build()
    y, _ = written(b, **changes)
    result, report = check(b.model(y), "fuse_attention")
    assert (ops(result, "Attention"), report.passes[0].applied) == (1, 1)
    assert ops(result, "Softmax", "MatMul") == 0
    assert [entry.version for entry in result.opset_import] == [23]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keys": LENGTH, "axis": 2}, None),
        ({"keys": LENGTH, "axis": 1}, None),
        ({"scaled": True}, None),
        ({"readers": ["scores"]}, "other readers"),
        ({"readers": ["probabilities"]}, "other readers"),
        ({"readers": ["weighted"]}, "other readers"),
        ({"readers": ["merged"]}, "other readers"),
        ({"mask": [2, 1, LENGTH, 9], "readers": ["scores"]}, "other readers"),
        ({"merge": [0, 3, 1, 2]}, "not merged as usual"),
        ({"merge": [0, 1, 3, 2]}, "not merged as usual"),
        ({"keys": 4, "k": [0, 2, 1, 3]}, "not split by one Reshape"),
        ({"mask": [9]}, "the mask is not"),
        ({"mask": [LENGTH, 9]}, "the mask is not"),
        ({"mask": [2, 1, LENGTH, 1]}, "the mask is not"),
        ({"mask": [2, 1, 1, 1]}, "the mask is not"),
    ],
    ids=str,
)
def test_what_is_no_attention_keeps_its_matmuls(build, check, ops, changes, reason):
    b = build()
    y, others = written(b, **changes)
    result, report = check(b.model(y, *others), "fuse_attention")
    assert ops(result, "Attention") == 0
    assert [entry.version for entry in result.opset_import] == [20]
    reasons = [refusal.reason for refusal in report.passes[0].refusals]
    assert [reason in said for said in reasons] == [True] if reason else reasons == []


def test_operators_that_mean_something_else_in_the_newer_opset_stop_it(build):
    def changed(b, y):
        return _changed_operator(ir.from_proto(b.model(y)))

    b = build(opset=18)
    assert changed(b, b("DFT", b.input("x", [1, 4, 6, 1]), axis=1)) == "DFT"
    b = build(opset=20)  # two attributes more since
    x = b("QuantizeLinear", b.input("x", [4]), b.const(0.5), b.const(np.int8(0)))
    assert changed(b, b("DequantizeLinear", x, b.const(0.5), b.const(np.int8(0)))) is None
    b = build(opset=24)
    assert changed(b, b("Relu", b.input("x", [4]))) is None


def test_an_attention_beside_such_an_operator_keeps_its_matmuls(build, check, ops):
    b = build(opset=18)
    y, _ = written(b)
    x = b.input("x", [1, 4, 6, 1])
    result, report = check(b.model(y, b("DFT", x, axis=1)), "fuse_attention")
    assert ops(result, "Attention") == 0
    assert report.passes[0].refusals[0].reason.startswith("DFT means something else in opset 23")


def test_a_newer_opset_stays(build, check, ops):
    b = build(opset=24)
    y, _ = written(b)
    result, _ = check(b.model(y), "fuse_attention")
    assert ops(result, "Attention") == 1
    assert [entry.version for entry in result.opset_import] == [24]
