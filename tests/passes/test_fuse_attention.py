"""fuse_attention: which products become the operator, and that they come back."""

import pytest

import passes
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
    assert sorted(n.op_type for n in back.graph.node) == sorted(n.op_type for n in plain.graph.node)


def test_scores_that_somebody_else_reads_keep_their_matmuls(build, check, ops):
    b = build()
    y = attention(b, b.input("x", [2, LENGTH, SIZE]))
    weights = next(node.output[0] for node in b.nodes if node.op_type == "Softmax")
    result, report = check(b.model(y, weights))
    assert ops(result, "Attention") == 0
    (refused,) = (entry for entry in report.passes if entry.name == "fuse_attention")
    assert refused.refusals[0].reason.startswith("the scores or the heads have other readers")
