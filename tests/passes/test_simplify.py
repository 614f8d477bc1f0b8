"""simplify: what onnxsim may not do to a model."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import passes
from passes.simplify import constant_bytes


def test_local_functions_are_inlined(check):
    scale = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="local")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    result, _ = check(helper.make_model(graph, functions=[scale], opset_imports=opsets, ir_version=10))
    assert not result.functions


def test_a_large_table_with_two_readers_is_not_copied(build, check):
    b = build()
    table = b.normal(600, 512)
    x = b("Gather", table, b.input("ids", [2, 5], TensorProto.INT64))
    _, report = check(b.model(b("MatMul", x, b("Transpose", table, perm=[1, 0]))), "onnxsim", bound=1e-4)
    assert not report.passes[0].refusals
    assert report.after.parameters == report.before.parameters


def test_a_large_weight_with_one_reader_is_folded(build, check, ops):
    b = build()
    model = b.model(b("MatMul", b.input("x", [2, 512]), b("Transpose", b.normal(600, 512), perm=[1, 0])))
    result, _ = check(model, "onnxsim", bound=1e-4)
    assert ops(result, "Transpose") == 0


def test_folding_that_would_make_the_model_larger_is_left(build):
    b = build()
    wide = b("Expand", b.const(np.ones((1, 1))), b.const(np.array([1024, 512])))
    model = b.model(b("Add", b.input("x", [1024, 512]), wide))
    result, report = passes.run(model, only=["onnxsim"])
    (entry,) = report.passes
    assert entry.refusals[0].reason.startswith("folding constants would have made the model larger")
    assert sum(tensor.ByteSize() for tensor in result.graph.initializer) < 1000


def test_bytes_of_constants_are_those_of_initializers_and_constant_nodes(build):
    b = build()
    x = b("Add", b.input("x", [4]), b("Constant", value=numpy_helper.from_array(np.ones(4, np.float32))))
    model = b.model(b("Abs", b("Add", x, b.const(np.ones(4)))))
    (node,) = (node for node in model.graph.node if node.op_type == "Constant")
    assert constant_bytes(model) == node.ByteSize() + model.graph.initializer[0].ByteSize()


def test_an_older_opset_is_converted(build, check):
    b = build(opset=17)
    result, _ = check(b.model(b("Relu", b.input("x", [2, 4]))), "onnxsim")
    assert result.opset_import[0].version == 20
