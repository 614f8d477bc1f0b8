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
