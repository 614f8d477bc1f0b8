"""Element-wise operators that are no step of an epilogue: right at every length, without generic kernels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.support.lengths import check_every_length

TOKENS, WIDTH = 9, 20


def embedded(b: Any) -> tuple[str, str]:
    """ids, and a row of WIDTH for each."""
    ids = b.input("input_ids", ["batch", "tokens"], TensorProto.INT64)
    return ids, b("Gather", b.normal(50, WIDTH), ids)


def glu(b: Any) -> str:
    left, right = b("Split", b.linear(embedded(b)[1], WIDTH, 2 * WIDTH), outputs=2, axis=-1, num_outputs=2)
    return b("Mul", left, b("Mul", right, b("Sigmoid", right)))


def mask_by_ids(b: Any) -> str:
    """Padding is id 3: rows of those tokens are 0."""
    ids, x = embedded(b)
    real = b("Cast", b("Not", b("Equal", ids, b.const(np.array(3)))), to=TensorProto.FLOAT)
    return b("Mul", x, b("Unsqueeze", real, b.const(np.array([2]))))


def positions_of_what_is_no_padding(b: Any) -> str:
    """As RoBERTa counts them: padding is id 3 and has position 3, the first token 4."""
    ids, x = embedded(b)
    real = b("Cast", b("Not", b("Equal", ids, b.const(np.array(3)))), to=TensorProto.INT32)
    counted = b("Mul", b("CumSum", real, b.const(np.array(1))), real)
    positions = b("Add", b("Cast", counted, to=TensorProto.INT64), b.const(np.array(3)))
    return b("Add", x, b("Gather", b.normal(20, WIDTH), positions))


def attention_within_a_window(b: Any) -> str:
    """Keys further than two tokens away, and padding, are masked."""
    ids, x = embedded(b)
    mask = b("Unsqueeze", b("Cast", b.input("attention_mask", ["batch", "tokens"], TensorProto.INT64),
                            to=TensorProto.BOOL), b.const(np.array([1, 2])))  # fmt: skip
    size = b("Gather", b("Shape", ids), b.const(np.array(1)))
    at = b("Range", b.const(np.array(0)), size, b.const(np.array(1)))
    far = b("Abs", b("Sub", b("Unsqueeze", at, b.const(np.array([0]))), b("Unsqueeze", at, b.const(np.array([1])))))
    near = b("LessOrEqual", far, b.const(np.array(2)))
    bias = b("Where", b("And", mask, near), b.const(np.float32(0)), b.const(np.float32(-1e30)))
    heads = [
        b("Transpose", b("Reshape", b.linear(x, WIDTH, WIDTH), b.const(np.array([1, -1, 2, WIDTH // 2]))), perm=axes)
        for axes in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    ]
    weights = b("Softmax", b("Add", b("MatMul", heads[0], heads[1]), bias), axis=-1)
    context = b("Transpose", b("MatMul", weights, heads[2]), perm=[0, 2, 1, 3])
    return b("Reshape", context, b.const(np.array([1, -1, WIDTH])))


def rotary_attention(b: Any) -> str:
    """cos and sin on queries and keys that are parted into heads, as transformers writes it."""
    ids, x = embedded(b)
    size = WIDTH // 2
    positions = b(
        "Range", b.const(np.array(0)), b("Gather", b("Shape", ids), b.const(np.array(1))), b.const(np.array(1))
    )
    cos, sin = (
        b("Unsqueeze", b("Gather", b.normal(TOKENS, size), positions), b.const(np.array([0, 1]))) for _ in range(2)
    )

    def heads() -> str:
        parted = b("Reshape", b.linear(x, WIDTH, WIDTH), b.const(np.array([1, -1, 2, size])))
        return b("Transpose", parted, perm=[0, 2, 1, 3])

    def rotated(y: str) -> str:
        low, high = (
            b("Slice", y, b.const(np.array([begin])), b.const(np.array([begin + size // 2])), b.const(np.array([-1])))
            for begin in (0, size // 2)
        )
        return b("Add", b("Mul", y, cos), b("Mul", b("Concat", b("Neg", high), low, axis=-1), sin))

    scores = b("MatMul", rotated(heads()), b("Transpose", rotated(heads()), perm=[0, 1, 3, 2]))
    context = b("Transpose", b("MatMul", b("Softmax", scores, axis=-1), heads()), perm=[0, 2, 1, 3])
    return b("Reshape", context, b.const(np.array([1, -1, WIDTH])))


def every_operator(b: Any) -> str:
    x = embedded(b)[1]
    y = b("Add", b("Exp", b("Clip", x, b.const(np.float32(-1)), b.const(np.float32(0.5)))), b("Sqrt", b("Exp", x)))
    chosen = b("And", b("Greater", x, b("Neg", y)), b("Or", b("Less", x, y), b("Not", b("IsNaN", y))))
    return b("Where", chosen, x, b("Mul", b("Sigmoid", x), b("Tanh", y)))


def comparisons_with_equals(b: Any) -> str:
    """A bit for each comparison of an id with 3."""
    ids, x = embedded(b)
    number, bits = b("Cast", ids, to=TensorProto.FLOAT), []
    for place, operator in enumerate(("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")):
        holds = b("Cast", b(operator, number, b.const(np.float32(3))), to=TensorProto.FLOAT)
        bits.append(b("Mul", holds, b.const(np.float32(1 << place))))
    total = bits[0]
    for bit in bits[1:]:
        total = b("Add", total, bit)
    return b("Mul", x, b("Unsqueeze", total, b.const(np.array([2]))))


@pytest.mark.parametrize(
    "graph",
    [
        glu, mask_by_ids, positions_of_what_is_no_padding, attention_within_a_window, rotary_attention, every_operator,
        comparisons_with_equals,
    ],
)  # fmt: skip
def test_every_length(graph: Callable[[Any], str], host: Any, tmp_path: Path) -> None:
    check_every_length(graph, host, tmp_path, TOKENS, 6)
