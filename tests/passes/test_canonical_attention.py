"""canonical_attention: however heads are split, one layout."""

import pytest

import passes
from tests.support.attention import LENGTH, SIZE, attention

MATMULS = passes.Options(attention="matmuls")


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
