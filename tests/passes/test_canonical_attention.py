"""canonical_attention: however heads are split, one layout."""

import numpy as np
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


def swapped(b, first, perm=(0, 2, 1), shape=(2, 1, 4, 6)):
    """[2, 1, 6, 4] as [2, 1, 4, 6] by way of three axes."""
    x = b.input("x", [2, 1, 6, 4])
    y = b("ReduceL2", x, b.const(np.array([1])), keepdims=0) if first == "ReduceL2" else b(
        "Reshape", x, b.const(np.array([2, *first]))
    )  # fmt: skip
    return b("Relu", b("Reshape", b("Transpose", y, perm=perm), b.const(np.array(shape))))


@pytest.mark.parametrize(
    ("case", "swaps"),
    [
        ({"first": (6, 4)}, True),
        ({"first": "ReduceL2"}, False),  # takes signs away, too
        ({"first": (4, 6), "perm": (0, 2, 1)}, False),
        ({"first": (6, 4), "perm": (0, 1, 2)}, False),
        ({"first": (6, 4), "shape": (2, 1, 6, 4)}, False),
        ({"first": (6, 4), "shape": (1, 2, 4, 6)}, False),
        ({"first": (6, 4), "shape": (2, 4, 6)}, False),
        ({"first": (8, 3), "shape": (2, 1, 3, 8)}, False),
    ],
    ids=str,
)
def test_only_rows_and_columns_of_heads_swap_by_way_of_three_axes(build, check, case, swaps):
    b = build()
    result, _ = check(b.model(swapped(b, **case)), "canonical_attention")
    assert [n.op_type for n in result.graph.node].count("Transpose") <= 1
    assert ([n.op_type for n in result.graph.node] == ["Transpose", "Relu"]) == swaps
