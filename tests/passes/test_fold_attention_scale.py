"""fold_attention_scale: which factors go into a projection."""

import numpy as np
import pytest

from tests.support.attention import LENGTH, SIZE, attention


def scaled(b, op, factor):
    """q kᵀ with a factor on it; q and k are linears."""
    x = b.input("x", [6, 8])
    q, k = (b.linear(x, 8, 8, gemm=True) for _ in range(2))
    return b(op, b("MatMul", q, b("Transpose", k, perm=[1, 0])), b.const(factor))


@pytest.mark.parametrize("op", ["Mul", "Div"])
@pytest.mark.parametrize("factor", [0.5, -1.0, 1.0, 3.0, np.array([2.0]), np.array([[0.25]])])
def test_a_number_goes_into_the_projection(build, check, ops, applied, op, factor):
    b = build()
    result, report = check(b.model(scaled(b, op, factor)), "fold_attention_scale")
    assert ops(result, "Mul", "Div") == 0
    assert applied(report, "fold_attention_scale") == 1


@pytest.mark.parametrize(
    ("op", "factor"),
    [("Div", 0.0), ("Mul", np.inf), ("Mul", np.nan), ("Mul", np.full((1, 1, 1), 0.5)), ("Mul", np.full(6, 0.5) + 1)],
)
def test_what_is_no_finite_number_stays(build, ops, op, factor):
    import passes

    b = build()
    model = b.model(b("Identity", scaled(b, op, factor)))
    result, report = passes.run(model, only=["fold_attention_scale"], verify=False)
    assert ops(result, op) == 1
    assert report.passes[0].applied == 0


def test_a_scale_behind_a_projection_with_two_readers_stays(build, check, ops):
    b = build()
    x = b.input("x", [2, 6, 8])
    y = b.linear(x, 8, 8)
    product = b("MatMul", y, b("Transpose", y, perm=[0, 2, 1]))
    result, report = check(b.model(b("Div", product, b.const(2.0))), "flatten_tokens", "fold_attention_scale")
    assert ops(result, "Div") == 1
    assert report.passes[1].refusals


@pytest.mark.parametrize("scale", ["scores", "query", "both"])
def test_the_scale_goes_into_the_projections(build, check, ops, scale):
    b = build()
    model = b.model(attention(b, b.input("x", [2, LENGTH, SIZE]), scale=scale))
    result, report = check(model, "flatten_tokens", "fold_attention_scale")
    assert ops(result, "Mul", "Div") == 0
    assert report.passes[1].applied == (2 if scale == "both" else 1)


@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_a_number_in_front_is_a_factor_of_a_product_and_not_of_a_quotient(build, check, ops, op):
    b = build()
    x = b.input("x", [6, 8])
    q, k = (b.linear(x, 8, 8, gemm=True) for _ in range(2))
    scores = b("MatMul", b("Exp", q) if op == "Div" else q, b("Transpose", b("Exp", k), perm=[1, 0]))
    result, report = check(b.model(b(op, b.const(0.5), scores)), "fold_attention_scale")
    assert ops(result, op) == (op == "Div")
    assert report.passes[0].applied == (op == "Mul")


@pytest.mark.parametrize("through", [(), ("Transpose",), ("Reshape", "Transpose")], ids=str)
def test_a_factor_on_its_way_to_scores_is_refused_with_the_reason(build, check, ops, through):
    b = build()
    x = b.input("x", [6, 6])
    y = b("Mul", b("Relu", x), b.const(0.5))
    for op in through:
        y = b("Transpose", y, perm=[1, 0]) if op == "Transpose" else b("Reshape", y, b.const(np.array([6, 6])))
    result, report = check(b.model(b("MatMul", y, x)), "fold_attention_scale")
    assert ops(result, "Mul") == 1
    (refusal,) = report.passes[0].refusals
    assert refusal.reason == "neither factor comes from a linear with one reader"
    assert refusal.where == next(node.name for node in result.graph.node if node.op_type == "Mul")


def test_a_factor_that_reaches_no_scores_is_nobodys_business(build, check, ops):
    b = build()
    x = b.input("x", [6, 6])
    y = b("Mul", b("Relu", x), b.const(0.5))
    z = b("Mul", b("Tanh", x), b.const(0.5))
    model = b.model(b.linear(b("Transpose", y, perm=[1, 0]), 6, 6, bias=False), b("MatMul", b("Exp", z), x), z)
    result, report = check(model, "fold_attention_scale")
    assert ops(result, "Mul") == 2
    assert report.passes[0].refusals == ()


@pytest.mark.parametrize("side", ["q", "k"])
def test_whichever_of_the_two_a_linear_makes_takes_the_factor(build, check, ops, side):
    b = build()
    x = b.input("x", [6, 8])
    parts = [b.linear(x, 8, 8, gemm=True) if name == side else b("Relu", x) for name in "qk"]
    product = b("MatMul", parts[0], b("Transpose", parts[1], perm=[1, 0]))
    result, report = check(b.model(b("Mul", product, b.const(0.25))), "fold_attention_scale")
    assert ops(result, "Mul") == 0
    assert (report.passes[0].applied, report.passes[0].refusals) == (1, ())


def test_a_large_projection_with_other_readers_does_not_take_it(build, check, ops, monkeypatch):
    from passes import linear

    monkeypatch.setattr(linear, "LARGE", 64)
    b = build()
    x, weight = b.input("x", [6, 8]), b.normal(8, 8)
    q, other = b("MatMul", x, weight), b("MatMul", b("Relu", x), weight)
    y = b("Mul", b("MatMul", q, b("Transpose", b("Relu", x), perm=[1, 0])), b.const(0.5))
    result, _ = check(b.model(y, other), "fold_attention_scale")
    assert ops(result, "Mul") == 1
