"""quantize_linears and quantize_tables: int8 weights behind DequantizeLinear, and what stays float32."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import passes
from passes import Options, PassError, int8
from passes.keep import check_patterns

INT8 = Options(quantize="int8", attention="matmuls")


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def weights(model: onnx.ModelProto) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """(integers, scales, axis) of every DequantizeLinear."""
    stored = constants(model)
    return [
        (stored[node.input[0]], stored[node.input[1]], node.attribute[0].i)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    ]


def layers(report: passes.Report) -> list[passes.report.LayerPrecision]:
    return [layer for entry in report.passes for layer in entry.layers]


@pytest.mark.parametrize("gemm", [False, True])
def test_a_linear_has_int8_weights_and_a_scale_for_each_output_channel(build, check, gemm):
    b = build()
    model = b.model(b("Relu", b.linear(b.input("x", [7, 64]), 64, 32, gemm=gemm)))
    stored = next(a for a in constants(model).values() if a.ndim == 2)
    w = stored.T if gemm else stored
    result, report = check(model, bound=0.02, options=INT8)
    [(q, scales, axis)] = weights(result)
    assert (q.dtype, q.shape, axis) == (np.int8, (64, 32), 1)
    assert np.allclose(scales, np.abs(w).max(0) / 127, rtol=1e-6)
    assert np.abs(q * scales - w).max() <= scales.max() / 2 * 1.001
    assert np.abs(q).max(0).min() == 127
    [layer] = layers(report)
    assert layer.precision == "int8"
    assert {entry.name: entry.applied for entry in report.passes}["quantize_linears"] == 1
    assert 35 < layer.output_snr < layer.weight_snr < 50
    assert not any(a.dtype == np.float32 and a.ndim == 2 for a in constants(result).values())


def test_what_adds_onto_the_residual_stream_is_quantised_too(build, check, ops):
    b = build()
    x = b.input("x", [6, 32])
    inner = b("Relu", b.linear(x, 32, 64))
    result, report = check(b.model(b("Add", x, b.linear(inner, 64, 32, bias=False))), bound=0.02, options=INT8)
    assert len(weights(result)) == 2
    assert {layer.precision for layer in layers(report)} == {"int8"}


def test_a_table_has_a_scale_for_each_row(build, check):
    b = build()
    rows = b.rng.standard_normal((50, 16)) * np.exp(b.rng.uniform(-5, 5, (50, 1)))
    rows[7] = 0
    table = b.const(rows)
    result, report = check(b.model(b("Gather", table, b.input("ids", [1, 9], onnx.TensorProto.INT64))),
                           bound=0.005, options=INT8)  # fmt: skip
    [(q, scales, axis)] = weights(result)
    assert (q.shape, axis, scales.shape) == ((50, 16), 0, (50,))
    assert scales[7] == 1
    assert not q[7].any()
    assert (np.abs(q * scales[:, None] - rows).max(1) <= scales * 0.501).all()
    assert layers(report)[0].kind == "table"


def test_a_table_tied_to_a_decoder_is_stored_once(build, check, ops):
    b = build()
    table = b.const(b.rng.standard_normal((2100, 128)), "words")
    hidden = b("Relu", b("Gather", table, b.input("ids", [1, 5], onnx.TensorProto.INT64)))
    scores = b("MatMul", hidden, b("Transpose", table, perm=[1, 0]))
    result, _ = check(b.model(scores), bound=0.05, options=INT8)
    [(q, _, axis)] = weights(result)
    assert (q.shape, axis) == ((2100, 128), 0)
    assert not any(a.size > 2100 and a.dtype == np.float32 for a in constants(result).values())


def test_layers_stay_float_where_the_caller_or_the_bound_wants_it(build):
    b = build()
    x = b.input("x", [64, 32])
    first = b("Relu", b("MatMul", x, b.const(b.rng.standard_normal((32, 64)), "encoder.weight")))
    model = b.model(b("MatMul", first, b.const(b.rng.standard_normal((64, 8)), "classifier.weight")))
    result, report = passes.run(model, options=Options(quantize="int8", keep_float=("*classifier*",)))
    assert {layer.weight: layer.precision for layer in layers(report)} == {
        "encoder.weight": "int8", "classifier.weight": "float32"}  # fmt: skip
    assert constants(result)["classifier.weight"].dtype == np.float32
    refusals = [r for entry in report.passes if entry.name == "quantize_linears" for r in entry.refusals]
    assert refusals[0].reason == "--keep-float *classifier*"
    assert refusals[0].times == 1
    _, report = passes.run(model, options=Options(quantize="int8", min_snr=60))
    assert [layer.precision for layer in layers(report)] == ["float32"] * 2
    assert "below 60 dB" in layers(report)[0].reason
    with pytest.raises(PassError, match=r"--keep-float clasifier: no layer has such a name; there are: encoder.weight"):
        passes.run(model, options=Options(quantize="int8", keep_float=("clasifier",)))
    with pytest.raises(PassError, match="--min-snr nan: give a number"):
        passes.run(model, options=Options(quantize="int8", min_snr=float("nan")))


def test_weights_whose_scale_underflows_stay_float_with_the_reason(build):
    b = build()
    w = b.rng.standard_normal((16, 8)).astype(np.float32)
    w[:, 1] = 1e-37
    model = b.model(b("MatMul", b.input("x", [4, 16]), b.const(w)))
    _, report = passes.run(model, options=Options(quantize="int8"), verify=False)
    [layer] = layers(report)
    assert layer.precision == "float32"
    assert "underflows" in layer.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reader", ["MatMul", "Gather"])
def test_weights_that_are_no_numbers_are_refused_by_name_unless_they_are_kept(build, value, reader):
    b = build()
    w = b.rng.standard_normal((16, 8)).astype(np.float32)
    w[3, 2] = value
    weight = b.const(w, "layer.7.weight")
    if reader == "MatMul":
        y = b("MatMul", b.input("x", [4, 16]), weight)
    else:
        y = b("Gather", weight, b.input("ids", [4], onnx.TensorProto.INT64))
    model = b.model(y)
    with pytest.raises(PassError, match=r"layer\.7\.weight: weights with NaN .*--keep-float 'layer\.7\.weight'"):
        passes.run(model, options=INT8, verify=False)
    _, report = passes.run(model, options=Options(quantize="int8", keep_float=("layer.7.*",)), verify=False)
    assert [layer.precision for layer in layers(report)] == ["float32"]


def test_a_layer_whose_input_overflows_on_the_samples_stays_float_and_says_so(build):
    b = build()
    x = b("Mul", b("Mul", b.input("x", [4, 16]), b.const(np.float32(3e38))), b.const(np.float32(3e38)))
    _, report = passes.run(b.model(b("MatMul", x, b.normal(16, 8))), options=INT8, verify=False)
    [layer] = layers(report)
    assert layer.reason == "its input is not finite on the samples"


@pytest.mark.parametrize("broken", [False, True])
def test_scores_that_almost_cancel_are_rounded_but_a_broken_pass_is_not_taken_for_rounding(build, monkeypatch, broken):
    """A classifier's two logits near 0: int8 changes them by more than they are, and is as right as anywhere."""
    b = build()
    rows = b.rng.standard_normal((4, 64)).astype(np.float32)
    weights = [b.rng.standard_normal(shape).astype(np.float32) for shape in ((64, 48), (48, 2))]
    x = b("Add", b("Mul", b.input("x", [4, 64]), b.const(np.float32(1e-6))), b.const(rows))
    y = b("MatMul", b("Relu", b("MatMul", x, b.const(weights[0]))), b.const(weights[1]))
    exact = np.maximum(rows @ weights[0], 0) @ weights[1]
    model = b.model(b("Add", y, b.const(-exact + 0.8)))
    if broken:
        right = int8.quantize_channels

        def wrong(values, axis):
            integers, scales = right(values, axis)
            return integers, 3 * scales

        monkeypatch.setattr(int8, "quantize_channels", wrong)
        with pytest.raises(PassError, match="quantize_linears"):
            passes.run(model, options=Options(quantize="int8", min_snr=-100.0))
        return
    _, report = passes.run(model, options=INT8)
    assert [layer.precision for layer in layers(report)] == ["int8", "int8"]
    (entry,) = (entry for entry in report.passes if entry.name == "quantize_linears")
    assert entry.error > 0.25


def test_a_channel_of_zeros_stays_zeros(build, check):
    b = build()
    w = b.rng.standard_normal((16, 8)).astype(np.float32)
    w[:, 3] = 0
    result, _ = check(b.model(b("MatMul", b.input("x", [4, 16]), b.const(w))), bound=0.02, options=INT8)
    [(q, scales, _)] = weights(result)
    assert not q[:, 3].any()
    assert scales[3] == 1


def drowned(b, writer):
    """A channel a thousand times the others, with weights as small as it is large; x comes from `writer`."""
    large = np.where(np.arange(32) == 5, 1000.0, 1.0)
    if writer == "linear":
        x = b("MatMul", b.input("x", [64, 32]), b.const(b.rng.standard_normal((32, 32)) * large))
    else:
        x = b("Mul", b.input("x", [64, 32]), b.const(large))
    return b.model(b("MatMul", b("Relu", x), b.const(b.rng.standard_normal((32, 16)) / large[:, None], "head")))


@pytest.mark.parametrize(("writer", "kind"), [("linear", "absorbed"), ("product", "multiplied")])
def test_a_channel_that_drowns_the_others_is_balanced(build, check, ops, writer, kind):
    b = build()
    model = drowned(b, writer)
    result, report = check(model, bound=0.05, options=INT8)
    counts = next(entry.counts for entry in report.passes if entry.name == "equalize_channels")
    assert counts == {"absorbed": int(kind == "absorbed"), "multiplied": int(kind == "multiplied")}
    assert {layer.precision for layer in layers(report)} == {"int8"}
    assert min(layer.output_snr for layer in layers(report)) > 30
    assert ops(result, "Mul") == (2 if kind == "multiplied" else 0)
    assert report.int8_snr > 30


def test_a_channel_that_drowns_the_others_keeps_the_layer_float_where_it_is_not_balanced(build):
    model = drowned(build(), "product")
    _, report = passes.run(model, options=INT8, skip=["equalize_channels"])
    [layer] = layers(report)
    assert layer.precision == "float32"
    assert layer.output_snr < 25 < layer.weight_snr


def test_a_value_with_other_readers_is_not_scaled(build, check):
    b = build()
    large = np.where(np.arange(32) == 5, 1000.0, 1.0)
    x = b("MatMul", b.input("x", [64, 32]), b.const(b.rng.standard_normal((32, 32)) * large))
    y = b("MatMul", x, b.const(b.rng.standard_normal((32, 16)) / large[:, None]))
    _, report = check(b.model(y, b("Tanh", x)), "equalize_channels", "quantize_linears", bound=0.1, options=INT8)
    counts = next(entry.counts for entry in report.passes if entry.name == "equalize_channels")
    assert counts == {"absorbed": 0, "multiplied": 1}


@pytest.mark.parametrize("case", ["gamma", "channel"])
def test_adversarial_norms_stay_usable(case, tmp_path):
    """γ log-uniform in [0.05, 20] with signs, or one channel 100 × the rest: 25 dB in every layer that is int8."""
    pytest.importorskip("torch")
    import model as core
    from benchmarks.adversarial import spoil_norms

    config = replace(core.PRESETS["mobilebert"], num_hidden_layers=2, vocab_size=500)
    module = core.create(config, "none", 0)
    core.randomize_norms(module, 0)
    spoil_norms(module, case, level=False)
    core.export(module, tmp_path / "model.onnx", seq_len=32, batch=1)
    _, report = passes.run(tmp_path / "model.onnx", options=INT8)
    small = [layer for layer in layers(report) if layer.precision == "int8"]
    least = min(layer.output_snr for layer in small)
    print(f"{case}: {len(small)} of {len(layers(report))}, least {least:.1f} dB, outputs {report.int8_snr:.1f} dB")
    assert len(small) >= 0.9 * len(layers(report))
    assert least >= 25
    assert report.int8_snr > 12  # what the layers, 25 dB each at least, add up to


def test_passes_after_it_and_a_second_run_leave_the_integers(build, ops):
    b = build()
    y = b("Relu", b.linear(b("Relu", b.linear(b.input("x", [2, 3, 64]), 64, 64)), 64, 64))
    first, _ = passes.run(b.model(y), options=INT8)
    again, _ = passes.run(first, options=INT8)
    assert ops(first, "DequantizeLinear") == ops(again, "DequantizeLinear") == 2
    assert [q.tobytes() for q, _, _ in weights(first)] == [q.tobytes() for q, _, _ in weights(again)]


def test_float_models_are_left_alone_without_the_option(build, ops):
    b = build()
    result, report = passes.run(b.model(b.linear(b.input("x", [2, 16]), 16, 16)))
    assert ops(result, "DequantizeLinear") == 0
    assert not layers(report)


def test_rounding_rows_equals_the_reference_of_the_kernels():
    """One step apart at most, and that in a few ties: the reference rounds as the kernels do."""
    from compile.kernels.int8_reference import quantize_rows

    rng = np.random.default_rng(0)
    x = (rng.standard_normal((40, 96)) * np.exp(rng.uniform(-9, 9, (40, 1)))).astype(np.float32)
    x[0], x[1] = 0, np.abs(x[1])
    reference = quantize_rows(x)
    difference = np.abs(int8.round_rows(x) - reference.dequantized()) / reference.scale[:, None]
    assert np.mean(difference > 1e-3) < 1e-3
    assert difference.max() < 1.01


def test_rounding_spelt_out_is_what_the_kernels_compute(build):
    """ONNX Runtime on the spelt-out graph against the integers: a few ties in a row may fall the other way."""
    from compile.kernels.int8_reference import linear, quantize_rows
    from passes.spell_rounding import spell_rounding
    from passes.verify import open_session

    b = build()
    model = b.model(b("Gemm", b.input("x", [40, 96]), b.normal(96, 24), b.normal(24)))
    result, _ = passes.run(model, options=INT8)
    stored = constants(result)
    [(q, scales, _)] = weights(result)
    x = (b.rng.standard_normal((40, 96)) * np.exp(b.rng.uniform(-5, 5, (40, 1)))).astype(np.float32)
    x[0], x[1], x[2] = 0, np.abs(x[1]), -2 - np.abs(x[2])
    bias = next(a for a in stored.values() if a.shape == (24,) and a.tobytes() != scales.tobytes())
    wanted = linear(x, q, scales, bias)
    [got] = open_session(spell_rounding(result)).run(None, {"x": x})
    step = quantize_rows(x).scale[:, None] * np.abs(q * scales).max()
    assert np.abs(got - wanted).max(1).max() <= 1.01 * step.max()
    assert np.mean(np.abs(got - wanted) > 1e-5 * np.abs(wanted).max(1, keepdims=True)) < 0.05


def test_weights_rounded_on_samples_lose_less_where_inputs_are_alike():
    """Inputs of 8 directions: what one row of W loses, the others can make good. Independent ones: nothing can."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((200, 24)).astype(np.float32)  # more than a block of rows
    nearest, scales = int8.quantize_channels(w, axis=1)
    mixed = rng.standard_normal((8, 200))
    x, other = (rng.standard_normal((500, 8)) @ mixed + 0.02 * rng.standard_normal((500, 200)) for _ in range(2))
    better = int8.compensate(w, scales, x)
    noise = [np.square(other @ (w - int8.dequantize(q, scales, 1))).mean() for q in (nearest, better)]
    assert noise[1] < noise[0] / 4
    independent = np.eye(200)[rng.permutation(200)] * 3.0
    assert np.mean(int8.compensate(w, scales, independent) != nearest) < 0.02
    assert not int8.compensate(np.zeros((4, 2)), np.ones(2, np.float32), np.zeros((3, 4))).any()


def test_layers_are_rounded_on_texts_and_judged_on_others(build):
    b = build()
    x = b.input("x", [64, 200])
    model = b.model(b("MatMul", x, b.normal(200, 32)))
    rng = np.random.default_rng(1)
    mixed = rng.standard_normal((8, 200))
    samples = tuple({"x": (rng.standard_normal((64, 8)) @ mixed).astype(np.float32)} for _ in range(8))
    plain, before = passes.run(model, options=INT8)
    result, after = passes.run(model, options=replace(INT8, calibration=samples))
    [(nearest, scales, _)], [(q, same, _)] = weights(plain), weights(result)
    assert np.array_equal(scales, same)
    assert np.mean(q != nearest) > 0.03
    [layer] = layers(after)
    assert layer.weight_snr < layers(before)[0].weight_snr
    assert layer.output_snr > 35


def test_rows_of_padding_are_no_samples(build):
    from onnx_ir import from_proto

    from passes.samples import activations

    b = build()
    x, types = b.input("x", [1, 6, 4]), b.input("token_type_ids", [1, 6], onnx.TensorProto.INT64)
    mask = b.input("attention_mask", [1, 6], onnx.TensorProto.INT64)
    model = from_proto(b.model(b("Relu", x), b("Add", mask, types)))
    rows = np.arange(24, dtype=np.float32).reshape(1, 6, 4)
    feeds = {
        "x": rows,
        "token_type_ids": np.array([[0, 1, 1, 1, 1, 1]]),
        "attention_mask": np.array([[1, 1, 0, 1, 0, 0]]),
    }
    [value] = activations(model, [model.graph.outputs[0]], Options(calibration=(feeds,))).values()
    assert value.tolist() == rows[0, [0, 1, 3]].tolist()


def test_every_fourth_row_is_held_out():
    from passes.samples import held_out

    rows = np.arange(9)
    chosen, other = held_out(rows)
    assert (chosen.tolist(), other.tolist()) == ([0, 1, 2, 4, 5, 6, 8], [3, 7])
    assert all(part.tolist() == [0, 1, 2] for part in held_out(rows[:3]))  # too few to hold any out


def test_a_channels_factor_has_limits():
    from passes.equalize_channels import _factors

    x = np.array([[1.0, 0.0, 1e-20, 1e20, 4.0], [-2.0, 0.0, 0.0, 0.0, 1.0]])
    weights = np.array([[8.0, -1.0], [3.0, 0.0], [1e20, 0.0], [1e-20, 0.0], [0.0, 0.0]])
    assert _factors(x, weights).tolist() == [2.0, 1.0, 2.0**20, 2.0**-20, 1.0]


def test_decibels_have_no_holes():
    import warnings

    one, none = np.ones(4), np.zeros(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int8.decibels(one, none) == int8.decibels(none, none) == 200
        assert int8.decibels(none, one) == int8.decibels(one, one * np.nan) == int8.decibels(one * np.inf, one) == -200
        assert int8.decibels(one, one / 10) == pytest.approx(20)
        assert int8.decibels(one / 10, one) == pytest.approx(-20)
        assert int8.decibels(one, one * 1e-30) == 200


def test_weights_rounded_on_samples_are_those_of_the_paper():
    """Frantar et al. 2023, one row at a time and the inverse made anew for what is left, which needs no Cholesky."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal((140, 5))  # more than a block
    x = rng.standard_normal((300, 12)) @ rng.standard_normal((12, 140)) + 0.1 * rng.standard_normal((300, 140))
    _, scales = int8.quantize_channels(w, axis=1)
    rounded = int8.round_rows(x)
    gram = rounded.T @ rounded
    damped = gram + 0.1 * np.mean(np.diag(gram)) * np.eye(140)
    left, wanted = w.copy(), np.empty(w.shape)
    for k in range(140):
        wanted[k] = np.clip(np.rint(left[k] / scales), -127, 127)
        inverse = np.linalg.inv(damped[k:, k:])
        left[k:] -= np.outer(inverse[:, 0] / inverse[0, 0], left[k] - wanted[k] * scales)
    assert np.mean(int8.compensate(w, scales, x) != wanted) < 0.01  # ties


@pytest.mark.parametrize(("value", "reason"), [
    (1.0, ""), (0.0, ""), (np.nan, "weights with NaN or infinity"), (-np.inf, "weights with NaN or infinity"),
    (1e-37, "weights so small that a scale underflows"), (2e-36, ""),
])  # fmt: skip
def test_which_weights_int8_can_hold(value, reason):
    weights = np.ones((3, 4))
    weights[:, 2] = value
    assert int8.unusable(weights, axis=1) == int8.unusable(weights.T, axis=0) == reason


def test_a_linear_behind_a_linear_is_balanced_without_a_relu(build, check, ops):
    b = build()
    large = np.where(np.arange(32) == 5, 1000.0, 1.0)
    x = b("MatMul", b.input("x", [64, 32]), b.const(b.rng.standard_normal((32, 32)) * large))
    y = b("MatMul", x, b.const(b.rng.standard_normal((32, 16)) / large[:, None]))
    result, report = check(b.model(b("Tanh", y)), "equalize_channels", bound=1e-3, options=INT8)
    assert report.passes[0].counts == {"absorbed": 1, "multiplied": 0}
    assert ops(result, "Mul") == 0


def test_integers_in_their_canonical_form_are_left_as_they_are(build):
    b = build()
    first, _ = passes.run(b.model(b("Relu", b.linear(b.input("x", [2, 3, 64]), 64, 64))), options=INT8)
    _, report = passes.run(first, only=["canonical_weights"])
    assert report.passes[0].applied == 0


@pytest.mark.parametrize(("count", "named"), [(0, "none in this model"), (3, "a0, a1, a2"), (4, "a0, a1, a2, …")])
def test_a_pattern_that_no_layer_has_is_told_those_that_there_are(count, named):
    with pytest.raises(PassError, match=f"^--keep-float b: no layer has such a name; there are: {named}$"):
        check_patterns(("b",), [f"a{i}" for i in range(count)])
