"""Attention with more than a mask: recognised in the ways that exports write it, and right at every length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from compile.running.load import load
from compile.running.verify import reference
from pocketbert.numerics import relative_error
from tests.support.lengths import check_every_length

TOKENS, HEADS, SIZE = 9, 2, 10
WIDTH = HEADS * SIZE
LOWEST = float(np.finfo(np.float32).min)


def array(b: Any, *values: int) -> str:
    return b.const(np.array(values))


def embedded(b: Any) -> str:
    ids = b.input("input_ids", ["batch", "tokens"], TensorProto.INT64)
    return b("Gather", b.normal(50, WIDTH), ids)


def mask_bool(b: Any) -> str:
    """(1, T), true for what is no padding."""
    return b("Cast", b.input("attention_mask", ["batch", "tokens"], TensorProto.INT64), to=TensorProto.BOOL)


def distances(b: Any, x: str) -> str:
    """(T, T): key − query."""
    size = b("Gather", b("Shape", x), b.const(np.array(1)))
    at = b("Range", b.const(np.array(0)), size, b.const(np.array(1)))
    return b("Sub", b("Unsqueeze", at, array(b, 0)), b("Unsqueeze", at, array(b, 1)))


def heads(b: Any, x: str, perm: tuple[int, ...] = (0, 2, 1, 3), count: int = HEADS) -> str:
    parted = b("Reshape", b.linear(x, WIDTH, count * SIZE), array(b, 1, -1, count, SIZE))
    return b("Transpose", parted, perm=list(perm))


def attend(b: Any, scores: str, value: str) -> str:
    context = b("Transpose", b("MatMul", b("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
    return b("Reshape", context, array(b, 1, -1, WIDTH))


def product(b: Any, x: str) -> str:
    return b("MatMul", heads(b, x), heads(b, x, (0, 2, 3, 1)))


def bucket_bias(b: Any, x: str) -> str:
    """As T5's: an entry a head for each bucket of distances, (1, H, T, T)."""
    buckets = b("Clip", b("Add", distances(b, x), b.const(np.array(3))), b.const(np.array(0)), b.const(np.array(6)))
    return b("Unsqueeze", b("Transpose", b("Gather", b.normal(7, HEADS), buckets), perm=[2, 0, 1]), array(b, 0))


def t5(b: Any) -> str:
    """The mask is chosen into the bias, and both layers add the same; RMS norms."""
    x = embedded(b)
    keys = b("Unsqueeze", mask_bool(b), array(b, 1, 2))
    bias = b("Where", keys, bucket_bias(b, x), b.const(np.float32(LOWEST)))
    for _ in range(2):
        mean = b("ReduceMean", b("Pow", x, b.const(np.float32(2))), array(b, -1), keepdims=1)
        root = b("Sqrt", b("Add", mean, b.const(np.float32(1e-6))))
        y = b("Mul", b.normal(WIDTH), b("Mul", x, b("Div", b.const(np.float32(1)), root)))
        x = b("Add", x, attend(b, b("Add", product(b, y), bias), heads(b, y)))
    return x


def mpnet(b: Any) -> str:
    """The scores are scaled, then the bias is added, then the mask."""
    x = embedded(b)
    mask = b("Where", b("Unsqueeze", mask_bool(b), array(b, 1, 2)), b.const(np.float32(0)), b.const(np.float32(-1e4)))
    scaled = b("Mul", product(b, x), b.const(np.float32(0.3)))
    return attend(b, b("Add", b("Add", scaled, bucket_bias(b, x)), mask), heads(b, x))


def alibi(b: Any) -> str:
    """−slope · |i − j|, a slope a head, and minus infinity for padding."""
    x = embedded(b)
    far = b("Cast", b("Abs", distances(b, x)), to=TensorProto.FLOAT)
    bias = b("Mul", far, b.const(np.array([-0.5, -0.25], np.float32).reshape(1, HEADS, 1, 1)))
    mask = b("Unsqueeze", mask_bool(b), array(b, 1, 2))
    mask = b("Where", mask, b.const(np.float32(0)), b.const(np.float32(-np.inf)))
    return attend(b, b("Add", product(b, x), b("Add", bias, mask)), heads(b, x))


def deberta(b: Any) -> str:
    """Queries and keys that meet vectors of distances; a query that is padding has no key."""
    x = embedded(b)
    mask = b("Cast", mask_bool(b), to=TensorProto.INT64)
    pairs = b("Mul", b("Unsqueeze", mask, array(b, 1, 2)), b("Unsqueeze", mask, array(b, 1, 3)))
    none = b("Not", b("Cast", pairs, to=TensorProto.BOOL))
    queries, keys = heads(b, x), heads(b, x)
    square = b("Expand", b("Unsqueeze", distances(b, x), array(b, 0, 1)), b("Shape", product(b, x)))

    def looked_up(y: str) -> str:
        near = b("Clip", b("Add", square, b.const(np.array(4))), b.const(np.array(0)), b.const(np.array(7)))
        return b("GatherElements", b("MatMul", y, b.normal(1, HEADS, SIZE, 8)), near, axis=-1)

    towards = b("Transpose", looked_up(keys), perm=[0, 1, 3, 2])
    scores = b("MatMul", b("Div", queries, b.const(np.float32(3))), b("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = b("Add", scores, b("Div", b("Add", looked_up(queries), towards), b.const(np.float32(2))))
    return attend(b, b("Where", none, b.const(np.float32(LOWEST)), scores), heads(b, x))


def scaled_before_the_lookup(b: Any) -> str:
    x = embedded(b)
    square = b("Expand", b("Unsqueeze", distances(b, x), array(b, 0, 1)), b("Shape", product(b, x)))
    near = b("Clip", b("Add", square, b.const(np.array(4))), b.const(np.array(0)), b.const(np.array(7)))
    queries = b("Mul", heads(b, x), b.const(np.float32(0.5)))
    towards = b("Mul", b("MatMul", queries, b.normal(1, HEADS, SIZE, 8)), b.const(np.float32(0.3)))
    return attend(b, b("Add", product(b, x), b("GatherElements", towards, near, axis=-1)), heads(b, x))


def kept_keys_get_a_large_number(b: Any) -> str:
    """In which scores are lost: all kept keys weigh the same."""
    x = embedded(b)
    keys = b("Unsqueeze", mask_bool(b), array(b, 1, 2))
    mask = b("Where", keys, b.const(np.float32(1e12)), b.const(np.float32(LOWEST)))
    return attend(b, b("Add", product(b, x), mask), heads(b, x))


def in_three_dimensions(b: Any) -> str:
    """(H, T, d) without a batch, as baddbmm has it."""
    x = embedded(b)
    query, key, value = (b("Reshape", heads(b, x), array(b, HEADS, -1, SIZE)) for _ in range(3))
    scores = b("MatMul", query, b("Transpose", key, perm=[0, 2, 1]))
    context = b("MatMul", b("Softmax", scores, axis=-1), value)
    context = b("Reshape", context, array(b, 1, HEADS, -1, SIZE))
    return b("Reshape", b("Transpose", context, perm=[0, 2, 1, 3]), array(b, 1, -1, WIDTH))


def transposed_in_three_dimensions(b: Any) -> str:
    """(T, H, d) becomes (H, T, d), as torch's MultiheadAttention has it."""
    x = embedded(b)
    query, key, value = (
        b("Transpose", b("Reshape", b.linear(x, WIDTH, WIDTH), array(b, -1, HEADS, SIZE)), perm=list(perm))
        for perm in ((1, 0, 2), (1, 2, 0), (1, 0, 2))
    )
    context = b("MatMul", b("Softmax", b("MatMul", query, key), axis=-1), value)
    context = b("Reshape", context, array(b, 1, HEADS, -1, SIZE))
    return b("Reshape", b("Transpose", context, perm=[0, 2, 1, 3]), array(b, 1, -1, WIDTH))


def heads_that_share_keys(b: Any) -> str:
    x = embedded(b)

    def repeated(y: str) -> str:
        shape = b("Concat", array(b, 1, 1, HEADS), b("Gather", b("Shape", y), array(b, 2)), array(b, SIZE), axis=0)
        wide = b("Expand", b("Unsqueeze", y, array(b, 2)), shape)
        return b("Reshape", wide, array(b, 1, HEADS, -1, SIZE))

    key = b("Transpose", repeated(heads(b, x, count=1)), perm=[0, 1, 3, 2])
    return attend(b, b("MatMul", heads(b, x), key), repeated(heads(b, x, count=1)))


def queries_keys_and_values_by_head(b: Any) -> str:
    """One product makes [q, k, v] of each head; the queries have a bias of their own, as DeBERTa's."""
    parted = b("Reshape", b.linear(embedded(b), WIDTH, 3 * WIDTH), array(b, 1, -1, HEADS, 3 * SIZE))
    q, k, v = (
        b("Transpose", b("Slice", parted, array(b, i * SIZE), array(b, (i + 1) * SIZE), array(b, 3)), perm=[0, 2, 1, 3])
        for i in range(3)
    )
    q = b("Add", q, b.normal(1, HEADS, 1, SIZE))
    return attend(b, b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), v)


GRAPHS = [
    t5, mpnet, alibi, deberta, scaled_before_the_lookup, kept_keys_get_a_large_number, in_three_dimensions,
    transposed_in_three_dimensions, heads_that_share_keys, queries_keys_and_values_by_head,
]  # fmt: skip


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_length(graph: Callable[[Any], str], host: Any, tmp_path: Path) -> None:
    check_every_length(graph, host, tmp_path, TOKENS, 50)


def chosen_number_that_leaves_scores(b: Any) -> str:
    """where(m, s, −1e4) is no sum: where all keys are masked, all scores are the same."""
    x = embedded(b)
    keys = b("Unsqueeze", mask_bool(b), array(b, 1, 2))
    return attend(b, b("Where", keys, product(b, x), b.const(np.float32(-1e4))), heads(b, x))


def lowest_number_made_small(b: Any) -> str:
    """where(m, s, −3.4e38) · 1e-38 leaves a masked key e^−3.4."""
    x = embedded(b)
    keys = b("Unsqueeze", mask_bool(b), array(b, 1, 2))
    chosen = b("Where", keys, product(b, x), b.const(np.float32(LOWEST)))
    return attend(b, b("Mul", chosen, b.const(np.float32(1e-38))), heads(b, x))


def buckets_that_differ_by_head(b: Any) -> str:
    x = embedded(b)
    own = b.const(np.arange(HEADS).reshape(1, HEADS, 1, 1))
    square = b("Expand", b("Add", distances(b, x), own), b("Shape", product(b, x)))
    near = b("Clip", b("Add", square, b.const(np.array(4))), b.const(np.array(0)), b.const(np.array(7)))
    looked_up = b("GatherElements", b("MatMul", heads(b, x), b.normal(1, HEADS, SIZE, 8)), near, axis=-1)
    return attend(b, b("Add", product(b, x), looked_up), heads(b, x))


def two_products(b: Any) -> str:
    x = embedded(b)
    return attend(b, b("Add", product(b, x), product(b, x)), heads(b, x))


def softmax_over_queries(b: Any) -> str:
    x = embedded(b)
    context = b("MatMul", b("Softmax", product(b, x), axis=2), heads(b, x))
    return b("Reshape", b("Transpose", context, perm=[0, 2, 1, 3]), array(b, 1, -1, WIDTH))


def number_for_each_head(b: Any, x: str, axes: tuple[int, ...]) -> str:
    """Of each token one for each head, (1, H, T, 1) or (1, H, 1, T)."""
    return b("Transpose", b("Unsqueeze", b.linear(x, WIDTH, HEADS), array(b, 3)), perm=list(axes))


def numbers_of_queries(b: Any) -> str:
    x = embedded(b)
    return attend(b, b("Add", product(b, x), number_for_each_head(b, x, (0, 2, 1, 3))), heads(b, x))


def half_of_what_is_computed(b: Any) -> str:
    x = embedded(b)
    scores = b("Add", product(b, x), number_for_each_head(b, x, (0, 2, 3, 1)))
    return attend(b, b("Mul", scores, b.const(np.float32(0.5))), heads(b, x))


NO_SUCH = [
    chosen_number_that_leaves_scores, lowest_number_made_small, buckets_that_differ_by_head, two_products,
    softmax_over_queries, numbers_of_queries, half_of_what_is_computed,
]  # fmt: skip


@pytest.mark.parametrize("graph", NO_SUCH)
def test_what_is_no_such_attention(graph: Callable[[Any], str], host: Any, tmp_path: Path) -> None:
    """TVM's operators compute it then, of the compiled length."""
    from compile.pipeline import BuildOptions, build_library
    from tests.support.graphs import Builder

    b = Builder()
    model = b.model(graph(b))
    built = build_library(model, "case", host, tmp_path / "artifact", BuildOptions(seq_len=TOKENS))
    assert built.manifest.generic_kernels
    rng = np.random.default_rng(0)
    with load(built.folder) as library:
        for kept in (TOKENS, 3, 0):
            given = {"input_ids": rng.integers(0, 50, (1, TOKENS))}
            given["attention_mask"] = (np.arange(TOKENS)[None] < kept).astype(np.int64)
            given = {entry.name: given[entry.name] for entry in built.manifest.inputs}
            assert relative_error(library.run(given), reference(model, [given])[0]) <= 1e-5
