"""Nodes, parameters and FLOPs against a count by hand."""

import numpy as np
import pytest
from onnx import numpy_helper

from passes.cost import measure


def test_a_linear_costs_two_flops_a_weight_and_row(build):
    b = build()
    model = b.model(b("Relu", b.linear(b.input("x", [2, 3, 8]), 8, 5)))
    size = measure(model, None)
    assert (size.nodes, size.parameters, size.flops) == (3, 8 * 5 + 5, 2 * 6 * 8 * 5)


def test_a_transposed_gemm_sums_over_its_rows(build):
    b = build()
    model = b.model(b("Gemm", b.input("x", [8, 3]), b.normal(8, 5), transA=1))
    assert measure(model, None).flops == 2 * 3 * 8 * 5


def test_constants_that_are_nodes_are_parameters_and_no_nodes(build):
    b = build()
    vector = b("Constant", value=numpy_helper.from_array(np.ones(7, np.float32)))
    size = measure(b.model(b("Add", b.input("x", [2, 7]), vector)), None)
    assert (size.nodes, size.parameters, size.flops) == (1, 7, 0)


@pytest.mark.parametrize("rank", [3, 4])
def test_attention_costs_scores_and_weighted_sum(build, rank):
    b = build(opset=23)
    batch, heads, queries, keys, size = 2, 4, 5, 7, 8
    q, k, v = (
        b.input(name, [batch, tokens, heads * size] if rank == 3 else [batch, heads, tokens, size])
        for name, tokens in (("q", queries), ("k", keys), ("v", keys))
    )
    several = {"q_num_heads": heads, "kv_num_heads": heads} if rank == 3 else {}
    size_of = measure(b.model(b("Attention", q, k, v, **several)), None)
    assert size_of.flops == 2 * batch * heads * queries * keys * 2 * size


def test_flops_are_unknown_where_a_shape_is_until_inputs_are_given(build):
    b = build()
    model = b.model(b("MatMul", b.input("x", ["n", 8]), b.normal(8, 5)))
    assert measure(model, None).flops is None
    assert measure(model, {"x": np.zeros((3, 8), np.float32)}).flops == 2 * 3 * 8 * 5


def test_flops_are_unknown_behind_an_operator_that_hides_its_products(build):
    b = build()
    assert measure(b.model(b("Einsum", b.input("x", [3, 8]), b.normal(8, 5), equation="ij,jk->ik")), None).flops is None
