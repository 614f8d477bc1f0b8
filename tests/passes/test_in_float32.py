"""in_float32: files of other floats, as ONNX Runtime computes them where it can."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import passes
from passes import in_float32
from passes.errors import PassError
from passes.in_float32 import in_float32_throughout
from passes.inputs import random_inputs
from passes.verify import compare, run_model
from tests.support.graphs import Builder, narrowed

KINDS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float64": TensorProto.DOUBLE}


def encoder(low: float = -1e4, kind: type = np.float32) -> onnx.ModelProto:
    b = Builder()
    x = b("Gather", b.normal(50, 16), b.input("input_ids", [1, 8], TensorProto.INT64))
    kept = b("Unsqueeze", b("Cast", b.input("attention_mask", [1, 8], TensorProto.INT64), to=1), b.const([1, 2]))
    mask = b("Mul", b("Sub", b.const(np.float32(1)), kept), b.const(np.array(low, kind)))
    y = b("Add", b.attention(x, 8, 2, 8, mask), b("Mul", x, b.input("gate", [1, 8, 16])))
    return b.model(b.linear(b("LayerNormalization", y, b.normal(16), b.normal(16)), 16, 4))


def kinds_of(model: onnx.ModelProto) -> set[int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.initializer)
    return {v.type.tensor_type.elem_type if isinstance(v, onnx.ValueInfoProto) else v.data_type for v in values}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_this_type_is_computed_in_float32_and_keeps_its_interface(name):
    wide = encoder()
    model = narrowed(wide, KINDS[name])
    result, report = passes.run(model)
    assert report.passes[0].counts[name] > 20
    assert (report.passes[0].error is None) == (name == "bfloat16")  # ONNX Runtime has no kernels for that
    assert report.passes[0].error is None or 0 < report.passes[0].error < {"float16": 2e-3, "float64": 1e-6}[name]
    assert report.error < 1e-6
    assert not kinds_of(result) & set(KINDS.values())
    kept = TensorProto.FLOAT if name == "bfloat16" else KINDS[name]
    assert [v.type.tensor_type.elem_type for v in (*result.graph.input, *result.graph.output)] == [7, 7, kept, kept]
    if name == "float64":
        feeds = [random_inputs(model, 5)]
        exact = run_model(wide, [{**feeds[0], "gate": feeds[0]["gate"].astype(np.float32)}])
        (got,) = run_model(result, feeds)
        assert compare(exact, [{key: value.astype(np.float32) for key, value in got.items()}]) < 1e-6


def test_the_least_number_of_a_wider_type_masks_and_makes_nothing_of_what_is_masked_all_over():
    model = narrowed(encoder(), TensorProto.DOUBLE)
    (low,) = (w for w in model.graph.initializer if w.dims == [] and numpy_helper.to_array(w) < -1)
    low.CopyFrom(numpy_helper.from_array(np.array(np.finfo(np.float64).min), low.name))
    wide = in_float32_throughout(model)
    feeds = random_inputs(model, 0) | {"attention_mask": np.zeros((1, 8), np.int64)}
    (got,) = run_model(wide, [feeds])
    assert all(np.isfinite(value).all() for value in got.values())


def test_what_overflows_in_the_file_is_forgiven():
    b = Builder()
    x = b.input("x", [1, 8])
    y = b("Abs", b("Mul", b("Mul", x, x), b.const(np.float32(40000))))
    model = narrowed(b.model(y), TensorProto.FLOAT16)
    (as_it_is,) = run_model(model, [random_inputs(model, 0)])
    assert 0 < sum(np.isinf(value).sum() for value in as_it_is.values()) < 8
    _, report = passes.run(model)
    assert report.passes[0].error < 2e-3


def test_a_file_that_differs_by_more_than_its_type_rounds_is_not_left_to_later_passes(monkeypatch):
    monkeypatch.setattr(in_float32, "TOLERANCES", dict.fromkeys(in_float32.TOLERANCES, 1e-7))
    with pytest.raises(PassError, match=r"in_float32.*changed the outputs by .* \(allowed: 1e-07\)"):
        passes.run(narrowed(encoder(), TensorProto.FLOAT16), leave_out=True)


def test_float32_files_stay_as_they_are():
    model = encoder()
    assert in_float32_throughout(model) is model
