"""flatten_tokens: runs of row-wise operators on (tokens, columns), and what must keep its axes."""

import numpy as np
import onnx_ir as ir
import pytest

import passes
from passes.flatten_tokens import leading


@pytest.mark.parametrize("shape", [[1, 6, 8], [3, 6, 8], ["b", 6, 8], [1, "t", 8], ["b", "t", 8]])
def test_row_wise_runs_flatten_for_static_and_dynamic_axes(build, check, ops, shape):
    b = build()
    x = b.input("x", shape)
    y = b("Relu", b.norm(b.linear(x, 8, 8), 8))
    z = b("LayerNormalization", b("Add", b.linear(y, 8, 8), x), b.normal(8), b.normal(8), axis=-1)
    result, report = check(b.model(z), "flatten_tokens")
    assert ops(result, "MatMul") == 0
    assert ops(result, "Gemm") == 2
    assert (report.passes[0].applied, report.passes[0].counts) == (2, {"operators_moved": 5})


@pytest.mark.parametrize("gemm", [False, True])
def test_positions_broadcast_over_a_batch_keep_three_axes(build, check, gemm):
    b = build()
    x = b.input("x", [3, 6, 8])
    check(b.model(b.linear(b("Add", b.linear(x, 8, 8), b.normal(6, 8)), 8, 4)), "flatten_tokens")


def test_mixing_tokens_is_not_row_wise(build, check, ops):
    b = build()
    y = b("Softmax", b.linear(b.input("x", [3, 6, 8]), 8, 8), axis=1)
    z = b("ReduceMean", b.linear(y, 8, 8), b.const(np.array([1])))
    check(b.model(z, b("Concat", y, y, axis=1)), "flatten_tokens")


@pytest.mark.parametrize(("axis", "ranks"), [(1, {3}), (2, {2}), (-1, {2})])
def test_a_split_of_channels_is_row_wise_and_one_of_tokens_is_not(build, check, axis, ranks):
    b = build()
    parts = b("Split", b.linear(b.input("x", [3, 6, 8]), 8, 8), outputs=2, axis=axis, num_outputs=2)
    size = 8 if axis == 1 else 4
    result, _ = check(b.model(*(b.linear(part, size, 4) for part in parts)), "flatten_tokens")
    shapes = {v.name: len(v.type.tensor_type.shape.dim) for v in result.graph.value_info}
    assert {shapes[node.input[0]] for node in result.graph.node if node.op_type == "Split"} == ranks


def test_unnamed_dimensions_are_refused(build):
    assert leading(ir.Value(name="of no known rank")) is None
    assert leading(ir.Value(name="a vector", shape=ir.Shape([8]))) is None
    b = build()
    x, shape = b.input("x", [4, 6, 8]), b.input("shape", [3], 7)
    model = b.model(b.linear(b("Reshape", x, shape), 8, 4))
    _, report = passes.run(model, only=["flatten_tokens"], verify=False)
    assert report.passes[0].applied == 0
    assert "neither size nor name" in report.passes[0].refusals[0].reason


def test_what_is_flattened_comes_back_where_an_axis_matters(build, check, ops):
    b = build()
    y = b("Relu", b.linear(b.input("x", [2, 6, 8]), 8, 8))
    result, _ = check(b.model(b("Transpose", y, perm=[0, 2, 1]), b.linear(y, 8, 4)), "flatten_tokens")
    assert ops(result, "Gemm") == 2
    shapes = [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in result.graph.output]
    assert shapes == [[2, 8, 6], [2, 6, 4]]


@pytest.mark.parametrize("vector", [(8,), (1, 8), (1, 1, 8), ()])
def test_vectors_with_leading_ones_do_not_bring_a_third_axis_back(build, check, vector):
    b = build()
    y = b("Mul", b.linear(b.input("x", [2, 6, 8]), 8, 8), b.normal(*vector))
    result, _ = check(b.model(b.linear(y, 8, 8)), "flatten_tokens")
    shapes = {v.name: len(v.type.tensor_type.shape.dim) for v in result.graph.value_info}
    assert all(shapes[node.output[0]] == 2 for node in result.graph.node if node.op_type in ("Mul", "Gemm"))


@pytest.mark.parametrize("bias", [(), (1,)])
def test_a_linear_of_one_column_may_add_a_number(build, check, ops, bias):
    b = build()
    product = b("MatMul", b("Relu", b.input("x", [2, 6, 8])), b.normal(8, 1))
    result, _ = check(b.model(b("Add", product, b.normal(*bias))), "flatten_tokens")
    assert ops(result, "Gemm") == 1


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("vector", [(6, 8), (6, 1), (2, 1, 1), (1, 6, 1)])
def test_constants_that_tell_tokens_apart_stay(build, check, vector, op):
    b = build()
    check(b.model(b(op, b.linear(b.input("x", [2, 6, 8]), 8, 8), b.normal(*vector))), "flatten_tokens")


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_column_as_long_as_a_row_is_none(build, check, op, batch):
    b = build()
    check(b.model(b(op, b.linear(b.input("x", [batch, 8, 8]), 8, 8), b.normal(8, 1))), "flatten_tokens")


@pytest.mark.parametrize("shape", [[1, 6, 8], [3, 1, 8], [6, 8], [8]])
def test_what_is_repeated_over_a_batch_or_its_tokens_keeps_its_axes(build, check, shape):
    b = build()
    y = b("Add", b.linear(b.input("x", [3, 6, 8]), 8, 8), b("Tanh", b.input("y", shape)))
    check(b.model(b.linear(b("Relu", y), 8, 4)), "flatten_tokens")


@pytest.mark.parametrize("batch", [1, 3])
def test_a_norm_over_tokens_and_channels_is_not_row_wise(build, check, batch):
    b = build()
    y = b.linear(b.input("x", [batch, 6, 8]), 8, 8)
    check(b.model(b.linear(b("LayerNormalization", y, b.normal(6, 8), axis=1), 8, 4)), "flatten_tokens")


def test_a_scale_for_each_token_of_what_is_rounded_keeps_its_axis(build, check):
    b = build()
    scales = b.const(np.linspace(0.02, 0.4, 8, dtype=np.float32)), b.const(np.zeros(8, np.int8))
    rounded = b("QuantizeLinear", b.linear(b.input("x", [2, 8, 8]), 8, 8), *scales, axis=1)
    y = b.linear(b("DequantizeLinear", rounded, *scales, axis=1), 8, 4)
    check(b.model(y), "flatten_tokens", bound=0.02)  # where a bias is added decides between two integers


def test_a_tied_decoder_reads_the_table_itself(build, check, ops):
    """MatMul with the transposed embedding becomes a Gemm on the embedding: no second copy of it."""
    b = build()
    table = b.normal(30000, 16)
    x = b("Gather", table, b.input("ids", [2, 5], 7))
    logits = b("MatMul", b("Relu", b.linear(x, 16, 16)), b("Transpose", table, perm=[1, 0]))
    result, report = check(b.model(logits))
    assert report.after.parameters <= report.before.parameters + 10
    assert ops(result, "Transpose") == 0


def test_rows_that_the_file_has_flat_already_are_not_flattened_again(build, check, ops):
    b = build()
    rows = b("Relu", b.input("x", [12, 8]))
    y = b.linear(b("Reshape", rows, b.const(np.array([2, 6, 8]))), 8, 4)
    result, _ = check(b.model(b("Transpose", y, perm=[0, 2, 1])), "flatten_tokens")
    product = next(node for node in result.graph.node if node.op_type == "Gemm")
    maker = {node.output[0]: node.op_type for node in result.graph.node}
    assert maker[product.input[0]] == "Relu"


def test_a_vector_that_becomes_a_row_is_not_flat_already(build, check, ops):
    b = build()
    row = b("Reshape", b("Relu", b.input("x", [8])), b.const(np.array([1, 1, 8])))
    result, _ = check(b.model(b.linear(row, 8, 4)), "flatten_tokens")
    assert ops(result, "Gemm") == 1


def test_positions_of_every_row_are_added_flat(build, check, ops):
    b = build()
    y = b("Add", b.linear(b.input("x", [1, 6, 8]), 8, 8), b.normal(6, 8))
    result, _ = check(b.model(b.linear(b("Relu", y), 8, 8)), "flatten_tokens")
    assert ops(result, "Reshape") == 2  # there, and back
