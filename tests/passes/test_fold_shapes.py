"""fold_shapes: what depends on shapes alone is computed, and nothing else."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from passes.graph import infer_shapes


def test_shape_arithmetic_in_front_of_a_reshape_becomes_a_constant(build, check, ops):
    b = build()
    x = b("Transpose", b.input("x", [1, 4, 6]), perm=[0, 2, 1])
    size = b("Gather", b("Shape", x), b.const(np.array(1)), axis=0)
    target = b("Concat", b("Unsqueeze", size, b.const(np.array([0]))), b.const(np.array([2, -1])), axis=0)
    result, _ = check(b.model(b("Relu", b("Reshape", x, target))), "fold_shapes")
    assert ops(result, "Shape", "Gather", "Unsqueeze", "Concat") == 0
    assert ops(result, "Reshape", "Relu") == 2


def test_what_is_computed_of_shapes_is_an_initializer(build, check, ops):
    b = build()
    x = b.input("x", [2, 3])
    rows = b("Unsqueeze", b("Size", x), b.const(np.array([0])))
    result, _ = check(b.model(b("Relu", b("Reshape", b("Exp", x), rows)), b("Identity", b("Size", x))), "fold_shapes")
    assert ops(result, "Size", "Unsqueeze", "Constant") == 0


def test_a_reshape_and_an_expand_that_change_nothing_go(build, check, ops):
    b = build()
    x = b("Reshape", b.input("x", [2, 3]), b.const(np.array([2, -1])))
    y = b("Expand", b("Relu", x), b.const(np.array([1, 3])))
    result, _ = check(b.model(b("Exp", y)), "fold_shapes")
    assert ops(result, "Reshape", "Expand") == 0


def test_what_makes_another_shape_stays(build, check, ops):
    b = build()
    x = b("Reshape", b.input("x", [2, 3]), b.const(np.array([3, 2])))
    result, _ = check(b.model(b("Relu", b("Expand", x, b.const(np.array([4, 3, 2]))))), "fold_shapes")
    assert ops(result, "Reshape", "Expand") == 2


def test_shapes_that_nobody_knows_yet_are_left(build, check, ops):
    b = build()
    x = b.input("x", ["n", 6])
    half = b("Div", b("Shape", x), b.const(np.array([1, 2])))
    result, _ = check(
        b.model(b("Relu", b("Reshape", x, b("Concat", half, b.const(np.array([2])), axis=0)))), "fold_shapes"
    )
    assert ops(result, "Shape") == 1


def test_a_large_constant_is_not_multiplied(build, check, ops):
    b = build()
    table = b.normal(1, 200_000)
    y = b("Add", b("Expand", table, b.const(np.array([64, 200_000]))), b.input("x", [1]))
    result, _ = check(b.model(y), "fold_shapes")
    assert sum(np.prod(t.dims) for t in result.graph.initializer) < 300_000


@pytest.mark.parametrize("odd", [("SimplifiedLayerNormalization", "x"), ("Add", "x", "n")])
def test_shapes_are_inferred_beside_what_onnx_does_not_know(odd):
    nodes = [helper.make_node(odd[0], odd[1:], ["y"]), helper.make_node("Relu", ["x"], ["z"])]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])]
    given += [helper.make_tensor_value_info("n", TensorProto.INT64, [2, 3])]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"]
    model = ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", given, made), ir_version=10))
    infer_shapes(model)
    assert model.graph.outputs[1].shape == (2, 3)
