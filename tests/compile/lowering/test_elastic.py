"""Which programs compute any shorter sequence as a model for that length would, and that they are right to say so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import compile
from passes.verify import open_session

TOKENS, WIDTH = 8, 8  # equal, so that a shape alone does not tell them apart


def embedded(b: Any, tokens: int) -> str:
    ids = b.inputs[0].name if b.inputs else b.input("ids", [1, tokens], TensorProto.INT64)
    return b("Gather", b.normal(30, WIDTH), ids)


def token_by_token(b: Any, tokens: int) -> str:
    return b("Tanh", b.linear(b("Relu", b.linear(embedded(b, tokens), WIDTH, 12)), 12, WIDTH))


def attention(b: Any, tokens: int) -> str:
    x = embedded(b, tokens)
    return b("Add", b.attention(x, tokens, 2, WIDTH // 2), x)


def layer_norm(b: Any, tokens: int) -> str:
    return b("LayerNormalization", embedded(b, tokens), b.normal(WIDTH), b.normal(WIDTH), axis=-1)


def first_row(b: Any, tokens: int) -> str:
    first = b("Gather", b.linear(embedded(b, tokens), WIDTH, WIDTH), b.const(np.array(0)), axis=1)
    return b("Tanh", b.linear(first, WIDTH, 4))


def columns(b: Any, tokens: int) -> str:
    parts = b("Split", b.linear(embedded(b, tokens), WIDTH, 12), b.const(np.array([4, 8])), outputs=2, axis=2)
    return b.linear(parts[1], 8, 4)


def convolution(b: Any, tokens: int) -> str:
    """[x_{t+1}, x_t, x_{t−1}] with zeros beyond the ends."""
    x, zeros = b.linear(embedded(b, tokens), WIDTH, WIDTH), b.const(np.zeros((1, 1, WIDTH)))
    after = b("Concat", b("Slice", x, *(b.const(np.array([v])) for v in (1, tokens, 1))), zeros, axis=1)
    before = b("Concat", zeros, b("Slice", x, *(b.const(np.array([v])) for v in (0, tokens - 1, 1))), axis=1)
    return b.linear(b("Concat", after, x, before, axis=2), 3 * WIDTH, WIDTH)


def mean(b: Any, tokens: int) -> str:
    return b("ReduceMean", b.linear(embedded(b, tokens), WIDTH, WIDTH), b.const(np.array([1])), keepdims=1)


ELASTIC = [token_by_token, attention, layer_norm, first_row, columns, convolution, mean]


def last_row(b: Any, tokens: int) -> str:
    last = b("Gather", b.linear(embedded(b, tokens), WIDTH, WIDTH), b.const(np.array(-1)), axis=1)
    return b("Tanh", b.linear(last, WIDTH, 4))


def third_row(b: Any, tokens: int) -> str:
    third = b("Gather", b.linear(embedded(b, tokens), WIDTH, WIDTH), b.const(np.array(2)), axis=1)
    return b("Tanh", b.linear(third, WIDTH, 4))


def softmax_over_tokens(b: Any, tokens: int) -> str:
    return b("Softmax", b.linear(embedded(b, tokens), WIDTH, WIDTH), axis=1)


def reversed_tokens(b: Any, tokens: int) -> str:
    bounds = (b.const(np.array([v])) for v in (-1, -tokens - 1, 1, -1))
    return b("Slice", b.linear(embedded(b, tokens), WIDTH, WIDTH), *bounds)


def permuted_tokens(b: Any, tokens: int) -> str:
    x = b.linear(embedded(b, tokens), WIDTH, WIDTH)
    return b.linear(b("Gather", x, b.const(np.arange(tokens)[::-1].copy()), axis=1), WIDTH, WIDTH)


def mixed_tokens(b: Any, tokens: int) -> str:
    """A product over tokens: the weight is on the left."""
    return b("Tanh", b("MatMul", b.normal(tokens, tokens), b.linear(embedded(b, tokens), WIDTH, WIDTH)))


def transposed(b: Any, tokens: int) -> str:
    x = b("Transpose", b.linear(embedded(b, tokens), WIDTH, WIDTH), perm=[0, 2, 1])
    return b.linear(x, tokens, WIDTH)


def keys_of_a_table(b: Any, tokens: int) -> str:
    """Attention whose keys are a constant's: a shorter sequence would have fewer of them, and other ones."""
    x, heads = embedded(b, tokens), b.const(np.array([1, tokens, 2, WIDTH // 2]))
    q, v = (
        b("Transpose", b("Reshape", b.linear(x, WIDTH, WIDTH), heads), perm=[0, 2, 1, 3]) for _ in range(2)
    )  # fmt: skip
    scores = b("Mul", b("MatMul", q, b.normal(1, 2, WIDTH // 2, tokens)), b.const(np.float32(0.5)))
    context = b("Transpose", b("MatMul", b("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return b("Reshape", context, b.const(np.array([1, tokens, WIDTH])))


def all_in_one_row(b: Any, tokens: int) -> str:
    x = b("Reshape", b.linear(embedded(b, tokens), WIDTH, WIDTH), b.const(np.array([1, tokens * WIDTH])))
    return b.linear(x, tokens * WIDTH, 4)


def other_rows(b: Any, tokens: int) -> str:
    return b("Reshape", b("Tanh", b.linear(embedded(b, tokens), WIDTH, WIDTH)), b.const(np.array([2, tokens * 4])))


RIGID = [
    last_row, third_row, softmax_over_tokens, reversed_tokens, permuted_tokens, mixed_tokens, transposed,
    keys_of_a_table, all_in_one_row, other_rows,
]  # fmt: skip


def made(graph: type, tokens: int, *kinds: Callable) -> onnx.ModelProto:
    b = graph()
    return b.model(*(kind(b, tokens) for kind in kinds))


@pytest.mark.parametrize("kind", RIGID, ids=lambda kind: kind.__name__)
def test_model_of_one_length_says_so(kind: Callable, graph: type, lowered: Callable) -> None:
    assert not lowered(made(graph, TOKENS, kind), TOKENS).elastic


def test_shorter_sequences_are_those_of_a_model_for_their_length(graph: type, tmp_path: Path) -> None:
    onnx.save(made(graph, TOKENS, *ELASTIC), tmp_path / "m.onnx")
    folder = compile.build(tmp_path / "m.onnx", target="host", seq_len=TOKENS, out=tmp_path / "artifact").folder
    ids = np.random.default_rng(0).integers(0, 30, (1, TOKENS))
    with compile.load(folder, threads=2) as library:
        assert library.manifest.shorter_sequences
        for tokens in (TOKENS, 5, 1):
            wanted = open_session(made(graph, tokens, *ELASTIC)).run(None, {"ids": ids[:, :tokens]})
            got = library.run({"ids": ids[:, :tokens]}).values()
            for kind, one, other in zip(ELASTIC, got, wanted, strict=True):
                np.testing.assert_allclose(one, other, atol=2e-5, err_msg=kind.__name__)
