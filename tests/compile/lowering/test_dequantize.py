"""Constants behind DequantizeLinear: what int8 kernels take, and what else is float32."""

from types import SimpleNamespace

import numpy as np
import pytest

from compile.importer.graph import Node
from compile.lowering.patterns import constant_of, match_quantized_weight


def dequantize(axis: int, *operands: np.ndarray) -> Node:
    inputs = [Node("c", "const", d.shape, str(d.dtype), data=d) for d in operands]
    return Node("w", "dequantize", operands[0].shape, "float32", inputs, attrs=SimpleNamespace(axis=axis))


@pytest.mark.parametrize(("axis", "scale", "zero"), [
    (0, [0.5, 2, 4], [1, 2, 3]), (1, [0.5, 2], [1, 2]), (1, [0.5, 2], 0), (1, 0.25, 128),
])  # fmt: skip
def test_a_dequantised_constant(axis: int, scale: object, zero: object) -> None:
    q = np.arange(6, dtype=np.uint8).reshape(3, 2) + 125
    operands = [q, np.array(scale, np.float32), np.array(zero, np.uint8)]
    s, z = (np.broadcast_to(np.expand_dims(d, 1 - axis) if d.ndim else d, q.shape) for d in operands[1:])
    got = constant_of(dequantize(axis, *operands))
    assert got is not None
    assert np.array_equal(got, (q.astype(np.float32) - z) * s)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "turned"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(4, 4), (2, 5)], ids=["square", "oblong"])
def test_an_int8_weight_with_zero_points(shape: tuple[int, int], axis: int, turned: bool, kind: type) -> None:
    rng = np.random.default_rng(shape[0])
    scales = rng.uniform(0.1, 1, shape[axis]).astype(np.float32)
    zeros = rng.integers(20, 40, shape[axis]).astype(kind)
    node = dequantize(axis, rng.integers(0, 128, shape).astype(kind), scales, zeros)
    wanted = constant_of(node)
    assert wanted is not None
    if turned:
        node = Node("t", "permute_dims", shape[::-1], "float32", [node], attrs=SimpleNamespace(axes=[1, 0]))
        wanted, axis = wanted.T, 1 - axis
    got = match_quantized_weight(node, axis)
    assert got is not None
    assert np.array_equal(got.values * np.expand_dims(got.scales, 1 - axis), wanted)
    assert match_quantized_weight(node, 1 - axis) is None


@pytest.mark.parametrize(("q", "zero", "fits"), [(255, 128, True), (255, 127, False), (0, 128, True), (0, 129, False)])
def test_an_int8_weight_is_one_without_its_zero_point(q: int, zero: int, fits: bool) -> None:
    weight = dequantize(1, np.array([[128, q]], np.uint8), np.ones(1, np.float32), np.array([zero], np.uint8))
    got = match_quantized_weight(weight, 1)
    assert (got is not None) == fits
    assert got is None or got.values[0, 1] == q - zero
