"""center_channels: a LayerNormalization's large channels no longer take up the range of a row."""

import numpy as np
import pytest

import passes
from passes import Options


@pytest.fixture
def samples():
    """Of an input x, as if they were texts."""
    rng = np.random.default_rng(5)
    return tuple({"x": rng.standard_normal((24, 64)).astype(np.float32)} for _ in range(8))


def encoder(b, readers=lambda b, y: ()):
    """An FFN after a norm with two channels that are large for every token; readers: what else reads the norm."""
    beta = np.where(np.arange(64) % 40 == 7, 40.0, 0.0)
    y = b("LayerNormalization", b.input("x", [24, 64]), b.normal(64), b.const(beta))
    inner = b("Relu", b.linear(y, 64, 128, gemm=True))
    z = b("LayerNormalization", b("Add", b.linear(inner, 128, 64, gemm=True), y), b.normal(64), b.normal(64))
    return b.model(z, *readers(b, y))


def test_large_channels_are_centred_for_nothing(build, check, applied, samples):
    model, options = encoder(build()), Options(quantize="int8", calibration=samples)
    plain, before = passes.run(model, skip=["center_channels"], options=options)
    result, after = check(model, bound=0.02, options=options)
    assert applied(after, "center_channels") == 1
    assert next(entry.error for entry in after.passes if entry.name == "center_channels") < 1e-5
    assert len(result.graph.node) == len(plain.graph.node)
    assert after.int8_snr > before.int8_snr + 8


@pytest.mark.parametrize("readers", [
    lambda b, y: [y],
    lambda b, y: [b("Tanh", y)],
    lambda b, y: [b("Add", y, b("Tanh", b.normal(24, 64)))],
])  # fmt: skip
def test_a_norm_that_something_else_reads_stays(build, check, applied, samples, readers):
    model = encoder(build(), readers)
    _, report = check(model, bound=0.1, options=Options(quantize="int8", calibration=samples, min_snr=0))
    assert applied(report, "center_channels") == 0


@pytest.mark.parametrize("options", [
    {"calibration": ()}, {"quantize": "none"}, {"keep_float": ("*",)}, {"keep_float": ("const_2*",)},
])  # fmt: skip
def test_nothing_is_centred_on_random_inputs_or_for_layers_in_float(build, applied, samples, options):
    model = encoder(build())
    assert model.graph.node[1].input[1] == "const_2"
    _, report = passes.run(model, options=Options(**{"quantize": "int8", "calibration": samples, **options}))
    assert applied(report, "center_channels") == 0


def test_a_norm_whose_mean_is_small_stays(build, applied, samples):
    b = build()
    y = b("LayerNormalization", b.input("x", [24, 64]), b.const(np.ones(64)), b.const(np.zeros(64)))
    model = b.model(b("Relu", b.linear(y, 64, 32, gemm=True)))
    _, report = passes.run(model, options=Options(quantize="int8", calibration=samples))
    assert applied(report, "center_channels") == 0


def test_a_norm_that_linears_read_through_a_reshape_is_centred(build, check, samples):
    b = build()
    beta = np.where(np.arange(64) % 40 == 7, 40.0, 0.0)
    y = b("LayerNormalization", b.input("x", [24, 64]), b.normal(64), b.const(beta))
    flat = b("Reshape", b("Reshape", y, b.const(np.array([2, 12, 64]))), b.const(np.array([-1, 64])))
    model = b.model(b("Relu", b.linear(flat, 64, 128, gemm=True)))
    _, report = check(model, "center_channels", options=Options(quantize="int8", calibration=samples))
    assert report.passes[0].applied == 1


def test_a_linear_between_two_norms_takes_the_means_of_both(build, check, samples):
    """It reads one and is added to the other, as the linear that leaves MobileBERT's bottleneck."""
    b = build()
    beta = np.where(np.arange(64) % 40 == 7, 40.0, 0.0)
    stream = b("LayerNormalization", b.input("x", [24, 64]), b.normal(64), b.const(beta))
    inner = b("Relu", b.linear(stream, 64, 64, gemm=True))
    inside = b("LayerNormalization", inner, b.normal(64), b.const(beta))
    z = b("Add", b.linear(inside, 64, 64, gemm=True), stream)
    model = b.model(b("LayerNormalization", z, b.normal(64), b.normal(64)))
    _, report = check(model, "center_channels", options=Options(quantize="int8", calibration=samples))
    assert report.passes[0].applied == 2
