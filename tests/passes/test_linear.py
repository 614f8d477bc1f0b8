"""What counts as a linear, and what must not."""

import numpy as np
import onnx_ir as ir
import pytest

from passes import linear


def last_node(model):
    return list(ir.from_proto(model).graph)[-1]


@pytest.mark.parametrize("bias", ["columns", "one", "row", "none"])
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_by_a_constant_is_a_linear(build, bias, transposed):
    b = build()
    weight = b.normal(*((6, 4) if transposed else (4, 6)))
    biases = {"columns": [b.normal(6)], "one": [b.normal(1)], "row": [b.normal(1, 6)], "none": []}[bias]
    found = linear.match(last_node(b.model(b("Gemm", b.input("x", [3, 4]), weight, *biases, transB=transposed))))
    assert found is not None
    assert (found.shape, found.transposed) == ((4, 6), bool(transposed))
    assert (found.bias is None) == (bias == "none")


@pytest.mark.parametrize(
    ("attributes", "bias"),
    [
        ({"alpha": 2.0}, [6]),
        ({"beta": 0.5}, [6]),
        ({"transA": 1}, [6]),
        ({}, [3, 1]),  # a number a row
        ({}, [3, 6]),
    ],
)
def test_a_gemm_that_does_more_is_none(build, attributes, bias):
    b = build()
    x = b.input("x", [4, 3] if "transA" in attributes else [3, 4])
    model = b.model(b("Gemm", x, b.normal(4, 6), b.normal(*bias), **attributes))
    assert linear.match(last_node(model)) is None


@pytest.mark.parametrize("constant", [False, True], ids=["computed", "a table of positions"])
def test_what_is_added_and_is_no_bias_is_taken_only_onto_a_stream(build, constant):
    b = build()
    added = b.normal(3, 6) if constant else b.input("added", [3, 6])
    model = b.model(b("Gemm", b.input("x", [3, 4]), b.normal(4, 6), added))
    assert linear.match(last_node(model)) is None
    found = linear.match(last_node(model), onto_stream=True)
    assert found is not None
    assert found.bias is None


def test_a_constant_bias_is_a_bias_onto_a_stream_too(build):
    b = build()
    model = b.model(b("Gemm", b.input("x", [3, 4]), b.normal(4, 6), b.normal(6)))
    found = linear.match(last_node(model), onto_stream=True)
    assert found is not None
    assert found.bias is not None


@pytest.mark.parametrize("case", ["computed", "three axes", "integers"])
def test_a_weight_that_is_no_float_matrix_is_none(build, case):
    b = build()
    if case == "integers":
        x, weight = b.input("x", [3, 4], 6), b.const(np.ones((4, 6), np.int32))
    else:
        x = b.input("x", [2, 3, 4])
        weight = b.input("w", [4, 6]) if case == "computed" else b.normal(2, 4, 6)
    assert linear.match(last_node(b.model(b("MatMul", x, weight)))) is None


@pytest.mark.parametrize(("rows", "readers", "may"), [(4, 1, True), (4, 2, True), (4096, 1, True), (4096, 2, False)])
def test_a_large_weight_with_other_readers_may_not_change(build, rows, readers, may):
    b = build()
    weight = b.const(np.ones((rows, 4096 if rows > 4 else 4), np.float32))
    x = b.input("x", [1, rows])
    ys = [b("MatMul", b("Relu", x) if number else x, weight) for number in range(readers)]
    node = list(ir.from_proto(b.model(*ys)).graph)[-1]
    assert linear.may_change(linear.match(node)) is may


@pytest.mark.parametrize(("rows", "may"), [(511, True), (512, False)])
def test_a_matrix_is_large_from_two_million_elements_on(build, rows, may):
    b = build()
    weight, x = b.const(np.ones((rows, 4096), np.float32)), b.input("x", [1, rows])
    node = list(ir.from_proto(b.model(b("MatMul", x, weight), b("MatMul", b("Relu", x), weight))).graph)[-1]
    assert linear.may_change(linear.match(node)) is may


def test_matrix_and_vector_are_the_linears_whichever_way_it_is_stored(build):
    for transposed in (0, 1):
        b = build()
        w = b.rng.standard_normal((4, 6)).astype(np.float32)
        x, weight = b.input("x", [3, 4]), b.const(w.T if transposed else w)
        for bias, wanted in (((), 0.0), ((b.const(np.array([2.0])),), 2.0)):
            found = linear.match(last_node(b.model(b("Gemm", x, weight, *bias, transB=transposed))))
            assert np.array_equal(found.matrix(), w)
            assert np.array_equal(found.vector(), np.full(6, wanted))
            assert found.matrix().dtype == found.vector().dtype == np.float64
            found.set_matrix(2 * found.matrix())
            found.set_vector(np.arange(6.0))
            again = linear.match(found.node)
            assert np.array_equal(again.matrix(), 2 * w)
            assert np.array_equal(again.vector(), np.arange(6.0))


@pytest.mark.parametrize("kind", ["other domain", "other operator"])
def test_what_only_looks_like_a_linear_is_none(build, kind):
    b = build()
    x, weight = b.input("x", [4, 4]), b.normal(4, 4)
    node = last_node(b.model(b("Add" if kind == "other operator" else "MatMul", x, weight)))
    node.domain = "com.other" if kind == "other domain" else ""
    assert linear.match(node) is None
    assert linear.match(None) is None
