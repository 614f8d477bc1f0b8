"""Constants behind DequantizeLinear: what no int8 kernel takes is float32."""

from types import SimpleNamespace

import numpy as np
import pytest

from compile.importer.graph import Node
from compile.lowering.patterns import constant_of


@pytest.mark.parametrize(("axis", "scale", "zero"), [
    (0, [0.5, 2, 4], [1, 2, 3]), (1, [0.5, 2], [1, 2]), (1, [0.5, 2], 0), (1, 0.25, 128),
])  # fmt: skip
def test_a_dequantised_constant(axis: int, scale: object, zero: object) -> None:
    q = np.arange(6, dtype=np.uint8).reshape(3, 2) + 125
    operands = [q, np.array(scale, np.float32), np.array(zero, np.uint8)]
    inputs = [Node("c", "const", d.shape, str(d.dtype), data=d) for d in operands]
    node = Node("w", "dequantize", q.shape, "float32", inputs, attrs=SimpleNamespace(axis=axis))
    s, z = (np.broadcast_to(np.expand_dims(d, 1 - axis) if d.ndim else d, q.shape) for d in operands[1:])
    got = constant_of(node)
    assert got is not None
    assert np.array_equal(got, (q.astype(np.float32) - z) * s)
