"""flatten_tokens, fold_attention_scale, canonical_attention and finite_mask on attention as exporters write it."""

import numpy as np
import pytest
from onnx import numpy_helper

import passes

HEADS, SIZE, LENGTH = 2, 8, 6
MATMULS = passes.Options(attention="matmuls")


def heads(b, y, batch, perm):
    return b("Transpose", b("Reshape", y, b.const(np.array([batch, LENGTH, HEADS, SIZE // HEADS]))), perm=perm)


def attention(b, x, *, batch=2, scale="scores", mask=None, key="direct", gemm=False):
    """Self-attention on x; `scale` and `key` choose between the ways exporters write 1/√d and kᵀ."""
    q, k, v = (heads(b, b.linear(x, SIZE, SIZE), batch, [0, 2, 1, 3]) for _ in range(3))
    if scale == "query":
        q = b("Mul", q, b.const(0.5))
    if scale == "both":
        q, k = b("Mul", q, b.const(0.5**0.5)), b("Mul", k, b.const(0.5**0.5))
    if key == "three_dimensional":
        k = b("Transpose", b("Reshape", k, b.const(np.array([-1, LENGTH, SIZE // HEADS]))), perm=[0, 2, 1])
        k = b("Reshape", k, b.const(np.array([batch, HEADS, SIZE // HEADS, LENGTH])))
    else:
        k = b("Transpose", k, perm=[0, 1, 3, 2])
    scores = b("MatMul", q, k)
    if scale == "scores":
        scores = b("Div", scores, b.const(2.0))
    p = b("Softmax", b("Add", scores, mask) if mask else scores, axis=-1)
    if mask and scale == "both":
        p = b("Where", b("IsNaN", p), b.const(0.0), p)
    merged = b("Transpose", b("MatMul", p, v), perm=[0, 2, 1, 3])
    context = b("Reshape", merged, b.const(np.array([batch, LENGTH, SIZE])))
    return b("Add", b.linear(context, SIZE, SIZE), x)


def additive_mask(b, low, batch=2):
    keep = b("Unsqueeze", b.input("mask", [batch, LENGTH], 7), b.const(np.array([1, 2])))
    return b("Where", b("Cast", keep, to=9), b.const(0.0), b.const(low))


@pytest.mark.parametrize("key", ["direct", "three_dimensional"])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_export_ends_in_one_layout(build, check, ops, key, batch):
    b = build()
    x = b.input("x", [batch, LENGTH, SIZE])
    result, _ = check(b.model(attention(b, x, batch=batch, key=key)), options=MATMULS)
    kinds = [node.op_type for node in result.graph.node]
    perms = sorted(tuple(node.attribute[0].ints) for node in result.graph.node if node.op_type == "Transpose")
    assert perms == [(0, 2, 1, 3), (0, 2, 1, 3), (0, 2, 1, 3), (0, 2, 3, 1)]
    assert kinds.count("Gemm") == 2  # q, k and v in one, and the output projection with bias and residual
    assert not {"Mul", "Div"} & set(kinds)
    assert kinds.count("Reshape") == 6  # in, three into heads, merged, out


@pytest.mark.parametrize("scale", ["scores", "query", "both"])
def test_the_scale_goes_into_the_projections(build, check, ops, scale):
    b = build()
    model = b.model(attention(b, b.input("x", [2, LENGTH, SIZE]), scale=scale))
    result, report = check(model, "flatten_tokens", "fold_attention_scale")
    assert ops(result, "Mul", "Div") == 0
    assert report.passes[1].applied == (2 if scale == "both" else 1)


@pytest.mark.parametrize("low", [-np.inf, float(np.finfo(np.float32).min)])
def test_masks_become_finite_and_nan_guards_go(build, check, ops, low):
    b = build()
    x = b.input("x", [2, LENGTH, SIZE])
    result, report = check(b.model(attention(b, x, scale="both", mask=additive_mask(b, low))), "finite_mask")
    floats = [numpy_helper.to_array(t) for t in result.graph.initializer if t.data_type == 1]
    assert min(values.min() for values in floats) == -1e9
    assert report.passes[0].counts == {"constants": 1, "nan_guards": 1}
    assert ops(result, "IsNaN") == 0


def test_a_tied_decoder_reads_the_table_itself(build, check, ops):
    """MatMul with the transposed embedding becomes a Gemm on the embedding: no second copy of it."""
    b = build()
    table = b.normal(30000, 16)
    x = b("Gather", table, b.input("ids", [2, 5], 7))
    logits = b("MatMul", b("Relu", b.linear(x, 16, 16)), b("Transpose", table, perm=[1, 0]))
    result, report = check(b.model(logits))
    assert report.after.parameters <= report.before.parameters + 10
    assert ops(result, "Transpose") == 0


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


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("mask", [None, 1, 9])  # none, float, bool
@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_operator_as_others_write_it_becomes_matmuls(build, check, ops, rank, mask, scale):
    b = build(opset=23)
    shapes = {3: [[2, n, SIZE] for n in (LENGTH, 9, 9)], 4: [[2, HEADS, n, 4] for n in (LENGTH, 9, 9)]}[rank]
    q, k, v = (b.input(name, shape) for name, shape in zip("qkv", shapes, strict=True))
    masks = [b.input("mask", [2, 1, LENGTH, 9], mask)] if mask else []
    attributes = {"q_num_heads": HEADS, "kv_num_heads": HEADS} if rank == 3 else {}
    attributes |= {"scale": scale} if scale else {}
    result, _ = check(b.model(b("Attention", q, k, v, *masks, **attributes)), options=MATMULS)
    assert ops(result, "Attention") == 0
    assert ops(result, "Softmax") == 1


def test_a_causal_attention_is_refused(build, check, ops):
    b = build(opset=23)
    q, k, v = (b.input(name, [1, HEADS, LENGTH, 4]) for name in "qkv")
    result, report = check(b.model(b("Attention", q, k, v, is_causal=1)), "expand_attention", options=MATMULS)
    assert ops(result, "Attention") == 1
    assert report.passes[0].refusals[0].reason == "the attention is causal or caps its scores"
