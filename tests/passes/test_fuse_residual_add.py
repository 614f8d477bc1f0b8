"""fuse_residual_add: which products accumulate onto the stream."""

import pytest

RESIDUAL = "fuse_residual_add"


def test_a_bare_product_accumulates_onto_the_stream(build, check, ops):
    b = build()
    x, stream = b.input("x", [5, 8]), b.input("s", [5, 6])
    y = b("Add", b("Gemm", x, b.normal(8, 6)), stream)
    result, _ = check(b.model(b("Relu", y)), RESIDUAL)
    assert [node.op_type for node in result.graph.node] == ["Gemm", "Relu"]


def test_of_two_products_one_accumulates_onto_the_other(build, check, ops):
    b = build()
    x = b.input("x", [5, 8])
    first = b("Gemm", x, b.normal(8, 6))
    for order in (1, -1):
        later = b("Gemm", b("Relu", x), b.normal(8, 6))
        result, _ = check(b.model(b("Add", *[first, later][::order])), RESIDUAL)
        assert ops(result, "Add") == 0
        assert result.graph.node[-1].input[2] == first  # which is there already


@pytest.mark.parametrize("case", ["bias", "reader", "broadcast", "matmul", "beta"])
def test_a_product_that_cannot_accumulate(build, check, ops, case):
    b = build()
    x = b.input("x", [5, 8])
    product = b("MatMul", x, b.normal(8, 6)) if case == "matmul" else b(
        "Gemm", x, b.normal(8, 6), *([b.normal(6)] if case == "bias" else []), beta=0.5 if case == "beta" else 1.0
    )  # fmt: skip
    y = b("Add", product, b.input("s", [2, 5, 6] if case == "broadcast" else [5, 6]))
    result, _ = check(b.model(y, *([b("Tanh", product)] if case == "reader" else [])), RESIDUAL)
    assert ops(result, "Add") == 1
