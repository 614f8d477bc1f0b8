"""Types of a library's in- and outputs."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from compile.errors import CompileError
from compile.importer.interface import with_own_types
from compile.pipeline import BuildOptions, build_library
from compile.running.load import load
from passes.verify import run_model
from tests.support.graphs import Builder, narrowed

TYPES = {
    "FLOAT16": "float32", "DOUBLE": "float32", "INT8": "int32", "UINT8": "int32",
    "INT16": "int32", "UINT16": "int32", "UINT32": "int64", "UINT64": "int64", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool",
}  # fmt: skip


def test_inputs_and_outputs_of_every_type_have_those_of_the_library(host, tmp_path):
    """One model with an output of each type, and inputs of some."""
    b = Builder()
    x, n = b.input("x", [1, 8], TensorProto.FLOAT16), b.input("n", [1, 8], TensorProto.INT8)
    wide = b("Add", b("Cast", x, to=TensorProto.FLOAT), b("Cast", n, to=TensorProto.FLOAT))
    whole = b("Abs", wide)  # of negative numbers unsigned types have none
    model = b.model(*(b("Cast", whole, to=getattr(TensorProto, kind)) for kind in TYPES))
    names = dict(zip((o.name for o in model.graph.output), TYPES, strict=True))
    folder = build_library(model, "types", host, tmp_path / "a", BuildOptions(seq_len=8, verify=True)).folder
    given = {"x": np.arange(8, dtype=np.float16)[None] - 3, "n": np.array([[0, 1, -1, 2, 100, -100, 7, 9]], np.int8)}
    (wanted,) = run_model(model, [given])
    with load(folder) as library:
        assert {e.name: e.dtype for e in library.manifest.inputs} == {"x": "float32", "n": "int32"}
        got = library.run({"x": given["x"].astype(np.float32), "n": given["n"]})
    for name, kind in names.items():
        assert str(got[name].dtype) == TYPES[kind]
        np.testing.assert_array_equal(got[name], wanted[name].astype(got[name].dtype))


@pytest.mark.parametrize("kind", ["STRING", "COMPLEX64", "INT4", "UINT2", "FLOAT8E4M3FN", "FLOAT4E2M1"])
@pytest.mark.parametrize("place", ["input", "output"])
def test_a_type_that_no_library_has_is_refused_by_name(kind, place):
    b = Builder()
    model = b.model(b("Abs", b.input("x", [1, 8])))
    getattr(model.graph, place)[0].type.tensor_type.elem_type = getattr(TensorProto, kind)
    with pytest.raises(
        CompileError, match=rf"^{place} '\w+' has type {kind.lower()}: cast it to float32, int32, .* bool$"
    ):
        with_own_types(model)


def test_an_output_that_is_no_tensor_is_refused_by_name():
    b = Builder()
    model = b.model(b("SequenceConstruct", b.input("x", [1, 8])))
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("all", TensorProto.FLOAT, [1, 8]))
    with pytest.raises(CompileError, match=r"^output 'all' is a sequence, a map"):
        with_own_types(model)


def test_a_shape_that_a_subgraph_reads_is_of_the_input_as_it_was(host):
    """Names that are taken by a cast are renamed in branches as well."""
    x, y, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [2]) for name in "xyz")
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], "b", [], [z])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    choice = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([node], "g", [x, choice], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (got,) = run_model(with_own_types(model), [{"x": np.array([1, -2], np.float32), "c": np.array(True)}])
    np.testing.assert_array_equal(got["y"], np.array([-1, 2], np.float32))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_an_encoder_of_another_float_is_compiled_and_verified(kind, host, tmp_path):
    b = Builder()
    x = b("Gather", b.normal(50, 16), b.input("input_ids", [1, "tokens"], TensorProto.INT64))
    y = b("Add", b("Gelu", b.linear(x, 16, 32)), b.normal(32))
    model = narrowed(b.model(b("LayerNormalization", y, b.normal(32), b.normal(32))), kind)
    result = build_library(model, "other", host, tmp_path / "a", BuildOptions(seq_len=8, verify=True))
    assert [e.dtype for e in result.manifest.outputs] == ["float32"]
    assert result.manifest.verification[0].error < 1e-5
    assert result.manifest.shorter_sequences
    assert not result.manifest.generic_kernels
