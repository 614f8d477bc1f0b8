"""expand_attention: the operator as others write it, in matmuls."""

import numpy as np
import pytest
from onnx import TensorProto

import passes
from passes.verify import run_model
from tests.support.attention import HEADS, LENGTH, SIZE

MATMULS = passes.Options(attention="matmuls")


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
    made = b("Attention", q, k, v, *masks, outputs=1 if mask else 3, **attributes)  # of which one is read
    result, _ = check(b.model(made if mask else made[0]), options=MATMULS)
    assert ops(result, "Attention") == 0
    assert ops(result, "Softmax") == 1


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize(
    "dims", [[LENGTH, 9], [2, 1, LENGTH, 9], [2, HEADS, LENGTH, 9], [HEADS, LENGTH, 9], [1, LENGTH, 9]]
)
@pytest.mark.parametrize("kind", [TensorProto.BOOL, TensorProto.FLOAT])
def test_a_query_without_keys_gets_zeros_and_nan_stays(build, check, ops, rank, dims, kind):
    """As the operator's definition has it, in ONNX Runtime and in ONNX's own reference."""
    b = build(opset=23)
    shapes = {3: [[2, n, SIZE] for n in (LENGTH, 9, 9)], 4: [[2, HEADS, n, 4] for n in (LENGTH, 9, 9)]}[rank]
    q, k, v = (b.input(name, shape) for name, shape in zip("qkv", shapes, strict=True))
    attributes = {"q_num_heads": HEADS, "kv_num_heads": HEADS} if rank == 3 else {}
    made = b("Attention", q, k, v, b.input("mask", dims, kind), **attributes)
    result, _ = check(b.model(made), "expand_attention", options=MATMULS)
    assert (ops(result, "Attention"), ops(result, "Softmax")) == (0, 1)
    rng = np.random.default_rng(rank)
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in zip("qkv", shapes, strict=True)}
    feeds["q"].reshape(2, -1)[0, 0] = np.nan
    kept = rng.random(dims) < 0.5
    kept.reshape(-1, 9)[::2] = False
    feeds["mask"] = kept if kind == TensorProto.BOOL else np.where(kept, np.float32(0.3), np.float32(-np.inf))
    (want,), (got,) = (list(run_model(m, [feeds])[0].values()) for m in (b.model(made), result))
    assert (want == 0).any()
    assert np.isnan(want).any() or not kept.any(-1).flat[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


FEWER = "the attention has fewer heads for keys than for queries"


@pytest.mark.parametrize(
    ("queries", "keys", "attributes", "reason"),
    [
        ([1, 4, 6, 4], [1, 4, 6, 4], {"is_causal": 1}, "the attention is causal or caps its scores"),
        ([1, 4, 6, 4], [1, 4, 6, 4], {"softcap": 3.0}, "the attention is causal or caps its scores"),
        ([1, 4, 6, 4], [1, 2, 6, 4], {}, FEWER),
        ([1, 6, 16], [1, 6, 8], {"q_num_heads": 4, "kv_num_heads": 2}, FEWER),
        ([1, 4, "n", 4], [1, 4, 6, 4], {}, "the number of tokens is not fixed"),
        ([1, "n", 16], [1, 6, 16], {"q_num_heads": 4, "kv_num_heads": 4}, "the number of tokens is not fixed"),
        ([1, 6, 16], [1, "n", 16], {"q_num_heads": 4, "kv_num_heads": 4}, "the number of tokens is not fixed"),
    ],
)
def test_what_is_refused_and_why(build, check, ops, queries, keys, attributes, reason):
    b = build(opset=23)
    q, k, v = b.input("q", queries), b.input("k", keys), b.input("v", keys)
    result, report = check(b.model(b("Attention", q, k, v, **attributes)), "expand_attention", options=MATMULS)
    assert ops(result, "Attention") == 1
    assert report.passes[0].refusals[0].reason == reason
