"""The numpy reference of the int8 scheme, against exact rational arithmetic and float64."""

from fractions import Fraction

import numpy as np
import pytest

from compile.kernels import int8_reference as reference


def rounded(exact: Fraction) -> np.float32:
    """The float32 next to `exact`, ties to even."""
    near = np.float32(float(exact))
    candidates = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.int32)) & 1))


def test_fused_multiply_add_rounds_once() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(3000).astype(np.float32) for _ in range(3))
    c[:1000] = -(a * b)[:1000]  # cancels
    c[1000:2000] *= np.float32(2.0**-23)  # decides how a tie is rounded
    a[2000:], b[2000:] = np.float32(1 + 2.0**-12), np.float32(1 + 2.0**-12)  # the product is a tie of float32
    c[2000:] = np.float32(2.0**-40) * np.sign(c[2000:])
    got = reference.fma(a, b, c)
    want = [
        rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c, strict=True)
    ]
    assert np.array_equal(got, np.array(want, np.float32))


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_a_quantised_row_is_within_half_a_step(shift: float) -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((500, 96)) + shift) * np.exp(rng.uniform(-30, 30, (500, 1)))
    x = x.astype(np.float32)
    rows = reference.quantize_rows(x)
    steps = (x.astype(np.float64) - rows.dequantized()) / rows.scale[:, None]
    assert np.abs(steps).max() <= 0.5001
    assert rows.zero.min() >= 0
    assert rows.zero.max() <= 254
    assert np.all(rows.q[np.arange(500), np.abs(x).argmax(axis=1)] != 127)  # the range is used


def test_rows_of_zeros_are_exact_and_ones_that_are_not_finite_stay_alone() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((9, 16)).astype(np.float32)
    x[1], x[2, 3], x[3, 0], x[4, 15] = 0, np.nan, np.inf, -np.inf
    x[6, :2], x[7, :2], x[8, :2] = [np.inf, np.inf], [np.inf, -np.inf], [np.inf, np.nan]
    weight, scale = rng.integers(1, 128, (16, 5)).astype(np.int8), rng.uniform(0.1, 1, 5).astype(np.float32)
    weight[:, 0], weight[0, 1] = -weight[:, 0], 0
    bias = rng.standard_normal(5).astype(np.float32)
    y = reference.linear(x, weight, scale, bias)
    assert np.array_equal(y[1], bias)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(y[2:5], (x @ (weight * scale) + bias)[2:5])  # infinities of both signs, and NaN
    assert np.isnan(y[6:]).all()
    assert np.isfinite(y[[0, 5]]).all()


def test_a_row_has_at_least_the_smallest_range() -> None:
    x = np.array([[0, 2.0**-102], [-(2.0**-103), 2.0**-102], [0, 2.0**-99]], np.float32)
    wanted = np.array([2.0**-100, 2.0**-100, 2.0**-99], np.float32) * np.float32(1 / 254)
    assert np.array_equal(reference.quantize_rows(x).scale, wanted)


def test_a_product_is_the_float_product_of_what_the_integers_stand_for() -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((40, 64)) + 1).astype(np.float32)
    weight, scale = rng.integers(-127, 128, (64, 24)).astype(np.int8), rng.uniform(0.001, 1, 24).astype(np.float32)
    want = reference.quantize_rows(x).dequantized().astype(np.float64) @ (weight * scale.astype(np.float64))
    assert np.abs(reference.linear(x, weight, scale) - want).max() <= 1e-6 * np.abs(want).max()


@pytest.mark.parametrize("zero", [0, 1, 100, 128, 254, 255])
@pytest.mark.parametrize("scale", [1e-6, 0.037, 1 / 3, 250.0])
def test_rows_that_a_file_has_rounded_are_not_rounded_again(scale: float, zero: int) -> None:
    q = np.random.default_rng(zero).integers(0, 256, (5, 40))
    q[0], q[1] = 255, np.arange(40)  # rows of one number, and of few: their own extremes would give other steps
    x = (q - zero).astype(np.float32) * np.float32(scale)
    rows = reference.quantize_rows(x, reference.static_extremes(scale, zero))
    assert np.array_equal(rows.q, q)
    assert (rows.zero == zero).all()
    assert np.allclose(rows.scale, scale, rtol=3e-7, atol=0)
