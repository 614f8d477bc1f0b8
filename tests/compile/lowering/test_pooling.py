"""Embeddings of sentences that a graph pools itself: right at every length, as sentence-transformers writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from compile.running.load import load
from compile.running.verify import reference
from pocketbert.numerics import relative_error

TOKENS, WIDTH = 9, 20


def array(b: Any, *values: int) -> str:
    return b.const(np.array(values))


def tokens(b: Any) -> tuple[str, str]:
    """Rows (1, T, W) that have met a norm, and the mask (1, T)."""
    x = b("Gather", b.normal(50, WIDTH), b.input("input_ids", ["batch", "tokens"], TensorProto.INT64))
    x = b("LayerNormalization", b.linear(x, WIDTH, WIDTH), b.normal(WIDTH), b.normal(WIDTH), axis=-1)
    return x, b.input("attention_mask", ["batch", "tokens"], TensorProto.INT64)


def unit(b: Any, x: str) -> str:
    norm = b("Clip", b("ReduceL2", x, array(b, 1), keepdims=1), b.const(np.float32(1e-12)))
    return b("Div", x, norm)


def mean_of_an_expanded_mask(b: Any) -> str:
    x, mask = tokens(b)
    wide = b("Cast", b("Expand", b("Unsqueeze", mask, array(b, 2)), b("Shape", x)), to=TensorProto.FLOAT)
    count = b("Clip", b("ReduceSum", wide, array(b, 1), keepdims=0), b.const(np.float32(1e-9)))
    return unit(b, b("Div", b("ReduceSum", b("Mul", x, wide), array(b, 1), keepdims=0), count))


def mean_by_a_count(b: Any) -> str:
    x, mask = tokens(b)
    kept = b("Mul", x, b("Cast", b("Unsqueeze", mask, array(b, 2)), to=TensorProto.FLOAT))
    count = b("Cast", b("ReduceSum", mask, array(b, 1), keepdims=1), to=TensorProto.FLOAT)
    return b("Div", b("ReduceSum", kept, array(b, 1), keepdims=0), count)


def first_token(b: Any) -> str:
    return unit(b, b("Gather", tokens(b)[0], b.const(np.array(0)), axis=1))


def greatest(b: Any) -> str:
    x, mask = tokens(b)
    padding = b("Equal", b("Unsqueeze", mask, array(b, 2)), b.const(np.array(0)))
    return b("ReduceMax", b("Where", padding, b.const(np.float32(-1e9)), x), array(b, 1), keepdims=0)


def mean_of_all(b: Any) -> str:
    return b("Tanh", b("ReduceMean", tokens(b)[0], array(b, 1), keepdims=0))


@pytest.mark.parametrize("graph", [mean_of_an_expanded_mask, mean_by_a_count, first_token, greatest, mean_of_all])
def test_every_length(graph: Callable[[Any], str], host: Any, tmp_path: Path) -> None:
    from compile.pipeline import BuildOptions, build_library
    from tests.support.graphs import Builder

    b = Builder()
    model = b.model(graph(b))
    built = build_library(model, "case", host, tmp_path / "artifact", BuildOptions(seq_len=TOKENS))
    assert built.manifest.shorter_sequences
    rng = np.random.default_rng(0)
    for threads in (1, 3):
        with load(built.folder, threads) as library:
            for count in range(TOKENS, 0, -1):
                given = {"input_ids": rng.integers(0, 50, (1, count))}
                given["attention_mask"] = (np.arange(count)[None] < max(1, count - 2)).astype(np.int64)
                given = {entry.name: given[entry.name] for entry in built.manifest.inputs}
                assert relative_error(library.run(given), reference(model, [given])[0]) <= 1e-5, count


def test_what_depends_on_the_length_elsewhere_takes_one_length(host: Any, graph: type, lowered: Callable) -> None:
    """The last token's row, and a mean over the tokens that meets all of them again by TVM."""
    b = graph()
    x = b("Gather", b.normal(50, WIDTH), b.input("input_ids", [1, TOKENS], TensorProto.INT64))
    sums = b("ReduceSum", b.linear(x, WIDTH, WIDTH), array(b, 1), keepdims=1)
    last = b("Gather", b.linear(x, WIDTH, WIDTH), b.const(np.array(-1)), axis=1)
    assert not lowered(b.model(b("Add", sums, last)), TOKENS).elastic
