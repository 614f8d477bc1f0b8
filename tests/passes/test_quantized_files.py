"""Files that ONNX Runtime's own tools quantised: read with their integers and scales, refused where they are broken."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import passes
from passes import PassError, int8
from passes.canonical_weights import channel_axis
from passes.graph import infer_shapes
from passes.inputs import random_inputs
from passes.verify import open_session


class Samples(CalibrationDataReader):
    def __init__(self, model: onnx.ModelProto) -> None:
        self.feeds = iter([random_inputs(model, seed) for seed in range(4)])

    def get_next(self):
        return next(self.feeds, None)


@pytest.fixture
def encoder(build) -> onnx.ModelProto:
    """A lookup, an FFN with a residual, a softmax and a head."""
    b = build()
    x = b("Gather", b.normal(40, 64), b.input("ids", [1, 12], TensorProto.INT64))
    inner = b("Relu", b.linear(x, 64, 128))
    x = b("LayerNormalization", b("Add", x, b.linear(inner, 128, 64)), b.normal(64), b.normal(64))
    weights = b("Softmax", b("MatMul", x, b("Transpose", x, perm=[0, 2, 1])), axis=-1)
    return b.model(b.linear(b("MatMul", weights, x), 64, 8))


def quantized(model: onnx.ModelProto, tmp_path, kind: str, weights: QuantType, per_channel: bool,
              activations: QuantType = QuantType.QUInt8) -> onnx.ModelProto:  # fmt: skip
    paths = [str(tmp_path / name) for name in ("float.onnx", "int8.onnx")]
    onnx.save(model, paths[0])
    if kind == "dynamic":
        quantize_dynamic(*paths, weight_type=weights, per_channel=per_channel)
    else:
        quantize_static(*paths, Samples(model), quant_format=QuantFormat.QDQ, per_channel=per_channel,
                        activation_type=activations, weight_type=weights)  # fmt: skip
    return onnx.load(paths[1])


def integers(model: onnx.ModelProto) -> list[bytes]:
    """Every int8 matrix, as sorted bytes."""
    stored = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8]
    return sorted(a.tobytes() for a in stored if a.ndim == 2)


def snr(wanted: onnx.ModelProto, got: onnx.ModelProto) -> float:
    feeds = random_inputs(wanted, 7)
    [a], [b] = (open_session(model).run(None, feeds) for model in (wanted, got))
    return int8.decibels(a, a - b)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_quantised_file_keeps_its_integers(encoder, tmp_path, kind, weights, per_channel):
    model = quantized(encoder, tmp_path, kind, weights, per_channel)
    result, report = passes.run(model)
    onnx.checker.check_model(result, full_check=True)
    count = Counter(node.op_type for node in result.graph.node)
    assert not {"MatMulInteger", "DynamicQuantizeLinear"} & set(count)
    if weights == QuantType.QInt8:
        linears = [m for m in integers(model) if len(m) != 40 * 64]
        assert linears == [m for m in integers(result) if len(m) != 40 * 64]
        assert len(linears) == 3
        assert count["QuantizeLinear"] == (3 if kind == "static" else 0)
    else:  # zero points other than 128: no integers that kernels take, and it is said
        reasons = [r for entry in report.passes for r in entry.refusals if "zero point" in r.reason]
        assert sum(r.times for r in reasons) + len(integers(result)) == 3 + 1
    assert snr(encoder, result) >= snr(encoder, model) - 1
    assert snr(model, result) > 15


@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8])
def test_rows_that_the_file_has_rounded_are_not_rounded_again(encoder, tmp_path, ops, activations):
    from passes.spell_rounding import spell_rounding

    model = quantized(encoder, tmp_path, "static", QuantType.QInt8, True, activations)
    result, _ = passes.run(model)
    assert ops(result, "QuantizeLinear") == 3
    assert ops(spell_rounding(result), "ReduceMin", "Round") == 0
    again, _ = passes.run(quantized(encoder, tmp_path, "dynamic", QuantType.QInt8, True))
    assert ops(spell_rounding(again), "ReduceMin") == 3


def dequantized_linear(b, q, scale, zero=None, axis=1, **attributes):
    inputs = [b.const(q), b.const(scale)] + ([b.const(zero)] if zero is not None else [])
    return b("MatMul", b.input("x", [5, q.shape[0]]), b("DequantizeLinear", *inputs, axis=axis, **attributes))


@pytest.fixture
def q() -> np.ndarray:
    """Zero among them, as in most files: −128 after the zero point is taken off."""
    q = np.random.default_rng(0).integers(0, 256, (16, 8)).astype(np.uint8)
    q[[0, 4], 0] = 0
    return q


def test_uint8_weights_around_128_are_int8(build, check, q, ops):
    b = build()
    result, _ = check(b.model(dequantized_linear(b, q, np.float32(0.01), np.uint8(128))), bound=1e-6)
    assert integers(result) == [(q.astype(np.int16) - 128).astype(np.int8).tobytes()]
    [node] = [node for node in result.graph.node if node.op_type == "DequantizeLinear"]
    scales = next(numpy_helper.to_array(t) for t in result.graph.initializer if t.name == node.input[1])
    assert scales.tolist() == [np.float32(0.01)] * 8


@pytest.mark.parametrize(("zero", "axis", "reason"), [
    (np.full(8, 3, np.uint8), 1, "zero point"), (np.full(16, 128, np.uint8), 0, "summed axis"),
])  # fmt: skip
def test_weights_that_no_integer_sum_takes_become_float(build, check, q, zero, axis, reason):
    b = build()
    scale = b.rng.uniform(0.01, 0.1, len(zero)).astype(np.float32)
    result, report = check(b.model(dequantized_linear(b, q, scale, zero, axis)), bound=1e-6)
    assert integers(result) == []
    assert any(reason in r.reason for entry in report.passes for r in entry.refusals)


def test_a_table_with_a_scale_for_each_column_becomes_float(build, check, q):
    b = build()
    table = b("DequantizeLinear", b.const(q), b.const(b.rng.uniform(0.01, 0.1, 8)), b.const(np.full(8, 128, np.uint8)))
    y = b("Gather", table, b.input("ids", [1, 5], TensorProto.INT64))
    result, report = check(b.model(y), "canonical_weights", bound=1e-6)
    assert integers(result) == []
    assert "summed axis" in report.passes[0].refusals[0].reason


@pytest.mark.parametrize("attributes", [{}, {"perm": [1, 0]}])
def test_the_channels_of_a_transposed_weight_are_its_rows(build, attributes):
    b = build()
    weight = b("Identity", b.const(np.ones((4, 8))))
    model = ir.from_proto(b.model(b("MatMul", b.input("x", [3, 8]), b("Transpose", weight, **attributes))))
    infer_shapes(model)
    assert channel_axis(next(iter(model.graph)).outputs[0]) == 0


@pytest.mark.parametrize("op", ["MatMul", "Mul"])
def test_only_the_weight_of_a_linear_and_a_table_have_channels(build, op):
    b = build()
    y = b(op, b("Identity", b.const(np.ones((8, 8)))), b.input("x", [8, 8]))
    model = ir.from_proto(b.model(y))
    infer_shapes(model)
    assert channel_axis(list(model.graph)[-1].inputs[0]) is None


@pytest.mark.parametrize(("order", "shape"), [(1, (1, 8)), (-1, (1, 8)), (1, (8,)), (1, (1, 1)), (1, ())])
def test_integers_cast_and_multiplied_by_scales_are_weights(build, check, q, order, shape):
    b = build()
    q = (q.astype(np.int16) - 128).astype(np.int8)
    scale = b.const(np.asarray(b.rng.uniform(0.01, 0.1, shape)))
    weight = b("Mul", *[b("Cast", b.const(q), to=TensorProto.FLOAT), scale][::order])
    result, _ = check(b.model(b("MatMul", b.input("x", [5, 16]), weight)), bound=1e-6)
    assert integers(result) == [q.tobytes()]


def test_integers_with_a_scale_for_each_row_are_a_table(build, check, q):
    b = build()
    q = (q.astype(np.int16) - 128).astype(np.int8)
    weight = b("Mul", b("Cast", b.const(q), to=TensorProto.FLOAT), b.const(b.rng.uniform(0.01, 0.1, (16, 1))))
    result, _ = check(
        b.model(b("Gather", weight, b.input("ids", [1, 5], TensorProto.INT64))), "recognise_cast_weights", bound=1e-6
    )
    assert integers(result) == [q.tobytes()]


def test_what_is_computed_and_what_has_other_scales_is_no_weight(build, ops):
    b = build()
    q = np.ones((8, 8), np.int8)
    mask = b("Mul", b("Cast", b.input("mask", [8, 8], TensorProto.INT64), to=TensorProto.FLOAT), b.const(0.5))
    half = b("Mul", b("Cast", b.const(q), to=TensorProto.FLOAT16), b.const(np.ones((1, 8), np.float16)))
    wide = b("Mul", b("Cast", b.const(q), to=TensorProto.FLOAT), b.const(np.ones((3, 1, 8), np.float32)))
    result, _ = passes.run(b.model(mask, half, wide), only=["recognise_cast_weights"])
    assert ops(result, "Cast") == 3


def test_a_lookalike_of_dynamic_quantisation_stays(build, ops):
    """The product is multiplied by another tensor's scale."""
    b = build()
    x, other = b.input("x", [5, 16]), b.input("other", [5, 16])
    rows, _, zero = b("DynamicQuantizeLinear", x, outputs=3)
    _, scale, _ = b("DynamicQuantizeLinear", other, outputs=3)
    q = b.const(np.ones((16, 8), np.int8))
    product = b("Cast", b("MatMulInteger", rows, q, zero), to=TensorProto.FLOAT)
    model = b.model(b("Mul", product, scale))
    result, report = passes.run(model)
    assert ops(result, "MatMulInteger") == 1
    (refusal,) = next(p for p in report.passes if p.name == "recognise_dynamic_quantization").refusals
    assert refusal.reason == "its product is not multiplied by the scales of both factors"


@pytest.mark.parametrize(
    ("scale", "zero", "axis", "message"),
    [
        (np.full(8, 0.1, np.float32), None, 0, "8 scales do not fit axis 0 of shape \\[16, 8\\]"),
        (np.full(8, 0.1, np.float32), None, 5, "8 scales do not fit axis 5"),
        (np.float32(0), None, 1, "zero, negative, infinite or no numbers"),
        (np.float32(np.nan), None, 1, "zero, negative, infinite or no numbers"),
        (np.float32(1e-44), None, 1, "leaves float32's range"),
        (np.float32(3e38), None, 1, "leaves float32's range"),
        (np.float32(0.1), np.full(8, 3, np.uint8), 1, "has shape \\[8\\] for scales of shape \\[\\]"),
        (np.float32(0.1), np.int32(300), 1, "is no uint8 from 0 to 255"),
    ],
)
def test_a_broken_quantised_file_is_one_line(build, q, scale, zero, axis, message):
    b = build()
    y = dequantized_linear(b, q, scale, zero, axis)
    graph = helper.make_graph(b.nodes, "t", b.inputs, [onnx.ValueInfoProto(name=y)], b.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(PassError, match=f"DequantizeLinear_0' of 'const_0'.*{message}") as error:
        passes.run(model)
    assert "\n" not in str(error.value)


def test_a_missing_scale_is_one_line(build, q):
    b = build()
    model = b.model(dequantized_linear(b, q, np.float32(0.1)))
    model.graph.node[0].input[1] = ""
    with pytest.raises(PassError, match="has no scale"):
        passes.run(model)


@pytest.mark.parametrize(("scale", "message"), [
    (1e-40, "leaves float32's range"), (1e-33, "leaves float32's range"), (3e38, "leaves float32's range"),
    (0.0, "holds zero"), (np.nan, "holds zero"),
])  # fmt: skip
def test_activations_that_kernels_cannot_step_through_are_one_line(build, q, scale, message):
    b = build()
    steps = b.const(np.float32(scale), "steps"), b.const(np.uint8(128))
    x = b("DequantizeLinear", b("QuantizeLinear", b.input("x", [5, 16]), *steps, name="quantize"), *steps)
    weight = b("DequantizeLinear", b.const(q), b.const(np.float32(0.1)), b.const(np.uint8(128)))
    with pytest.raises(PassError, match=f"'quantize' of 'x': scale 'steps' {message}"):
        passes.run(b.model(b("MatMul", x, weight)))


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.inf])
def test_a_dynamic_file_with_a_scale_that_is_none_is_one_line(build, scale):
    b = build()
    rows, x_scale, zero = b("DynamicQuantizeLinear", b.input("x", [5, 16]), outputs=3)
    product = b("MatMulInteger", rows, b.const(np.ones((16, 8), np.int8), "weight"), zero, name="multiply")
    y = b("Mul", b("Cast", product, to=TensorProto.FLOAT), b("Mul", x_scale, b.const(np.float32(scale))))
    with pytest.raises(PassError, match="node 'multiply' of 'weight': its scales hold zero, negative or infinite"):
        passes.run(b.model(y))


def test_scales_of_rows_are_no_weights(build, check, ops):
    b = build()
    rows, x_scale, zero = b("DynamicQuantizeLinear", b.input("x", [5, 16]), outputs=3)
    product = b("Cast", b("MatMulInteger", rows, b.const(np.full((16, 8), 3, np.int8)), zero), to=TensorProto.FLOAT)
    y = b("Mul", product, b("Mul", x_scale, b.const(np.full((5, 1), 0.1))))
    result, report = check(b.model(y), "recognise_dynamic_quantization")
    assert (ops(result, "MatMulInteger"), report.passes[0].applied) == (1, 0)
    assert "neither one scale and zero point nor one for each column" in report.passes[0].refusals[0].reason


@pytest.mark.parametrize(("kind", "rounds"), [(np.int8, 1), (np.uint8, 0)])
def test_rows_are_rounded_for_weights_of_int8_alone(build, ops, kind, rounds):
    from passes.spell_rounding import spell_rounding

    b = build()
    weight = b("DequantizeLinear", b.const(np.full((16, 8), 3, kind)), b.const(np.full(8, 0.1)))
    model = onnx.shape_inference.infer_shapes(b.model(b("MatMul", b.input("x", [5, 16]), weight)))
    assert ops(spell_rounding(model), "ReduceMin") == rounds


def test_what_a_product_is_added_to_is_not_rounded(build, check):
    b = build()
    place = b.const(np.float32(0.05)), b.const(np.int8(3))
    z = b("DequantizeLinear", b("QuantizeLinear", b.input("z", [5, 8]), *place), *place)
    weight = b("DequantizeLinear", b.const(np.full((16, 8), 3, np.int8)), b.const(np.full(8, 0.1, np.float32)))
    x = b("DequantizeLinear", b("QuantizeLinear", b.input("x", [5, 16]), *place), *place)
    result, _ = check(b.model(b("Gemm", x, weight, z)), "drop_activation_rounding", bound=0.05)
    (product,) = (node for node in result.graph.node if node.op_type == "Gemm")
    assert product.input[2] == "z"
    assert product.input[0] != "x"


def test_rows_are_static_by_the_scale_they_are_dequantised_with(build, ops):
    """It may be another than they were quantised with: 8-bit integers are taken as they are."""
    from passes.spell_rounding import spell_rounding

    b = build()
    zero = b.const(np.uint8(128))
    rows = b("QuantizeLinear", b.input("x", [5, 16]), b.const(np.float32(0.05)), zero)
    x = b("DequantizeLinear", rows, b.const(np.float32(0.5)), zero)
    weight = b("DequantizeLinear", b.const(np.full((16, 8), 3, np.int8)), b.const(np.full(8, 0.1, np.float32)))
    result, _ = passes.run(b.model(b("MatMul", x, weight)))
    assert ops(spell_rounding(result), "ReduceMin") == 0
