"""Convolutions over tokens read several rows as one; columns side by side: no generic kernel, right at every length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.support.lengths import check_every_length

TOKENS, WIDTH = 9, 20


def embedded(b: Any) -> str:
    return b("Gather", b.normal(50, WIDTH), b.input("input_ids", ["batch", "tokens"], TensorProto.INT64))


def text_cnn(b: Any) -> str:
    """Kim's: the greatest of several convolutions, side by side."""
    x = b("Transpose", b("Tanh", b.linear(embedded(b), WIDTH, WIDTH)), perm=[0, 2, 1])
    pads = {1: [0, 0], 2: [0, 1], 3: [1, 1], 5: [3, 1]}
    parts = [b("Relu", b("Conv", x, b.normal(6, WIDTH, k), b.normal(6), pads=pads[k])) for k in pads]
    return b("Concat", *(b("ReduceMax", part, b.const(np.array([2])), keepdims=0) for part in parts), axis=1)


def convolutions_in_a_row(b: Any) -> str:
    x = b("Transpose", embedded(b), perm=[0, 2, 1])
    y = b("Relu", b("Conv", x, b.normal(WIDTH, WIDTH, 3, scale=0.2), b.normal(WIDTH), pads=[1, 1]))
    y = b("Add", b("Conv", y, b.normal(WIDTH, WIDTH // 4, 1), b.normal(WIDTH), group=4), x)
    return b("Transpose", y, perm=[0, 2, 1])


def columns_of_several(b: Any) -> str:
    x = embedded(b)
    return b("Concat", b("Exp", x), b.linear(x, WIDTH, 7), x, axis=-1)


def neighbours_rotated(b: Any) -> str:
    """As RoFormer turns queries and keys."""
    x = b("Reshape", b.linear(embedded(b), WIDTH, 32), b.const(np.array([0, 0, 2, 16])))
    x = b("Transpose", x, perm=[0, 2, 1, 3])
    ends = [np.array([n]) for n in (np.iinfo(np.int64).max, 3, 2)]
    odd, even = (b("Slice", x, b.const(np.array([first])), *map(b.const, ends)) for first in (1, 0))
    pairs = [b("Unsqueeze", part, b.const(np.array([-1]))) for part in (b("Neg", odd), even)]
    turned = b("Reshape", b("Concat", *pairs, axis=-1), b("Shape", x))
    angles = [b("Slice", b.normal(1, 1, TOKENS, 16), b.const(np.array([0])), length(b, x), b.const(np.array([2])))
              for _ in range(2)]  # fmt: skip
    y = b("Add", b("Mul", x, angles[0]), b("Mul", turned, angles[1]))
    return b("Reshape", b("Transpose", y, perm=[0, 2, 1, 3]), b.const(np.array([0, 0, 32])))


def length(b: Any, x: str) -> str:
    return b("Slice", b("Shape", x), b.const(np.array([2])), b.const(np.array([3])))


@pytest.mark.parametrize("graph", [text_cnn, convolutions_in_a_row, columns_of_several, neighbours_rotated])
def test_right_at_every_length(graph: Callable[[Any], str], host: Any, tmp_path: Path) -> None:
    check_every_length(graph, host, tmp_path, TOKENS, ids=50)
