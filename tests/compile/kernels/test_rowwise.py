"""Lookups, copies with element-wise steps and layer normalisation, against float64."""

from collections.abc import Callable

import numpy as np
import pytest

from compile.cpus import Isa
from compile.kernels.contract import pack_vector
from compile.kernels.rowwise import Gather, LayerNorm, Map

WIDTHS = [1, 2, 5, 16, 26, 30, 64, 128, 312, 512]
EPSILON = 1e-12
STEPS = ("mul_vector", "add", "add_vector", "relu")
IDS = np.array([0, 4, 2, 2, 6, 1, 3], np.int64)


@pytest.fixture(scope="module")
def call(isa: Isa, link_kernels: Callable) -> Callable[..., None]:
    kernels = [Map(n, s, isa) for n in WIDTHS for s in (STEPS, ())]
    kernels += [Gather(7, n, s, isa) for n in WIDTHS for s in (("add",), ())]
    kernels += [LayerNorm(n, EPSILON, isa) for n in WIDTHS if n > 1]
    kernels += [LayerNorm(64, 1e-5, isa), *(LayerNorm(n, 1e-6, isa, centred=False) for n in WIDTHS[::2])]
    return link_kernels(kernels)


@pytest.mark.parametrize("rows", [1, 2, 7, 30])
def test_copy_into_rows_of_another_stride(rows: int, isa: Isa, call: Callable, strided: type) -> None:
    rng = np.random.default_rng(rows)
    for n in WIDTHS:
        x, y = strided(rows, n, gap=4, values=rng.standard_normal((rows, n))), strided(rows, n, gap=11)
        call(Map(n, (), isa), x.address, x.stride, y.address, y.stride, rows)
        assert np.array_equal(y.view, x.view)
        assert y.untouched()


@pytest.mark.parametrize("rows", [1, 7])
def test_element_wise_steps_in_order(rows: int, isa: Isa, call: Callable, strided: type, at_64_bytes: Callable) -> None:
    rng = np.random.default_rng(rows)
    for n in WIDTHS:
        x, other = (strided(rows, n, gap=g, values=rng.standard_normal((rows, n))) for g in (0, 2))
        scale, shift = rng.standard_normal((2, n)).astype(np.float32)
        vectors = [at_64_bytes(pack_vector(v, 64)) for v in (scale, shift)]
        y = strided(rows, n, gap=1)
        call(
            Map(n, STEPS, isa), x.address, x.stride, y.address, y.stride, vectors[0], other.address, other.stride,
            vectors[1], rows,
        )  # fmt: skip
        want = np.maximum(x.view * scale.astype(np.float64) + other.view + shift, 0)
        assert np.abs(y.view - want).max() <= 1e-6 * max(1, want.max())
        assert y.untouched()


def test_lookup_with_a_sum(isa: Isa, call: Callable, strided: type, at_64_bytes: Callable) -> None:
    rng = np.random.default_rng(3)
    for n in WIDTHS:
        table = at_64_bytes(rng.standard_normal((7, n)).astype(np.float32))
        other, y = strided(7, n, gap=2, values=rng.standard_normal((7, n))), strided(7, n, gap=6)
        kernel = Gather(7, n, ("add",), isa)
        call(kernel, IDS, table, y.address, y.stride, other.address, other.stride, 7)
        assert np.array_equal(y.view, table[IDS] + other.view)
        assert y.untouched()


def test_lookup_stays_inside_the_table_whatever_the_ids(
    isa: Isa, call: Callable, strided: type, at_64_bytes: Callable
) -> None:
    """The runtime refuses such ids; a kernel that is given computed ones must still not read elsewhere."""
    ids = np.array([-1, 7, 2**40, -(2**40), 2**32 + 3, 3], np.int64)
    table = at_64_bytes(np.random.default_rng(0).standard_normal((7, 30)).astype(np.float32))
    y = strided(6, 30)
    call(Gather(7, 30, (), isa), ids, table, y.address, y.stride, 6)
    assert np.array_equal(y.view, table[np.clip(ids, 0, 6)])


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("rows", [1, 5, 128])
def test_layer_norm(rows: int, offset: float, isa: Isa, call: Callable, strided: type, at_64_bytes: Callable) -> None:
    rng = np.random.default_rng(rows)
    for kernel in [LayerNorm(n, EPSILON, isa) for n in WIDTHS if n > 1] + [LayerNorm(64, 1e-5, isa)]:
        n = kernel.n
        spread = 1e-3 if kernel.epsilon > EPSILON else 1.0  # a variance of 1e-6, where ε = 1e-5 decides
        x = strided(rows, n, gap=3, values=rng.standard_normal((rows, n)) * spread + offset * spread)
        gamma, beta = rng.standard_normal((2, n)).astype(np.float32)
        y = strided(rows, n, gap=5)
        vectors = [at_64_bytes(pack_vector(v, 64)) for v in (gamma, beta)]
        call(kernel, x.address, x.stride, *vectors, y.address, y.stride, rows)
        values = x.view.astype(np.float64)
        centred = values - values.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + kernel.epsilon)
        want = centred / deviation * gamma + beta
        # float32 keeps the mean of values around `offset` to 2⁻²⁴ · offset, seen as a share of their deviation.
        rounding = 2e-6 + 3e-7 * offset * spread / deviation
        assert np.all(np.abs(y.view - want) <= rounding * (1 + np.abs(want)) * (1 + np.abs(gamma)))
        assert y.untouched()


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e3])
def test_rms_norm(rows: int, spread: float, isa: Isa, call: Callable, strided: type, at_64_bytes: Callable) -> None:
    """x / √(mean x² + ε) · γ: a row of zeros stays one, and of small numbers ε decides."""
    rng = np.random.default_rng(rows)
    for n in WIDTHS[::2]:
        x, y = strided(rows, n, gap=3, values=rng.standard_normal((rows, n)) * spread + spread), strided(rows, n, gap=5)
        x.view[-1] = 0
        gamma = rng.standard_normal(n).astype(np.float32)
        vector = at_64_bytes(pack_vector(gamma, 64))
        call(LayerNorm(n, 1e-6, isa, False), x.address, x.stride, vector, y.address, y.stride, rows)
        values = x.view.astype(np.float64)
        want = values / np.sqrt((values**2).mean(-1, keepdims=True) + 1e-6) * gamma
        assert np.all(np.abs(y.view - want) <= 2e-6 * (1 + np.abs(want)))
        assert y.untouched()
