"""Texts that one run computes side by side have the bits that each has alone, wherever they begin."""

import random
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import compile
from benchmarks.families import Encoder
from benchmarks.forms import sentence_transformers

TOKENS, WIDTH = 32, 8
PIECES = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *string.ascii_lowercase]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Short ones mostly, some as long as the model takes, an empty one."""
    rng = random.Random(0)
    lengths = [rng.choice([1, 2, 3, 5, 8, 13, 30]) for _ in range(40)] + [0, 30, 30, 1]
    return [" ".join(rng.choices(string.ascii_lowercase, k=length)) for length in lengths]


def require_bits_of_each_alone(source: Path, texts: list[str], gap: int, task: str | None = None) -> None:
    """gap: rows between texts; −1: the model computes one alone."""
    vocab, dump, out = (source.parent / name for name in ("vocab.txt", "dump", "artifact"))
    vocab.write_text("\n".join(PIECES) + "\n")
    folder = compile.build(
        source, target="host", seq_len=TOKENS, vocab=vocab, task=task, dump=dump, out=out, verify_passes=False
    ).folder
    assert f".gap = {gap}," in (dump / "plan.c").read_text()
    with compile.load(folder, threads=1) as alone:
        wanted = np.array([alone.embed(text) for text in texts])
        assert np.isfinite(wanted).all()
        assert np.array_equal(alone.embed_all(texts), wanted)
    with compile.load(folder, threads=3) as library:
        for some in (slice(None), slice(0, 2), slice(5, 6)):  # more than threads, and fewer
            assert np.array_equal(library.embed_all(texts[some]), wanted[some])


@pytest.mark.parametrize(
    ("family", "gap"),
    [
        ("mobilebert", 1),  # neighbours, and zeros beyond the ends
        ("roberta", 0),  # positions that are counted
        ("deberta-v2", 0),  # scores by distance
        ("modernbert", 0),  # rotated queries, and windows of keys
    ],
)
def test_family(family: str, gap: int, texts: list[str], tmp_path: Path) -> None:
    require_bits_of_each_alone(sentence_transformers(Encoder(family), tmp_path).source, texts, gap)


def mean(b: type, x: str) -> str:
    return b("ReduceMean", x, b.const(np.array([1])), keepdims=0)


def first(b: type, x: str) -> str:
    return b("Tanh", b.linear(b("Gather", x, b.const(np.array(0)), axis=1), WIDTH, WIDTH))


def mean_over_columns(b: type, x: str) -> str:
    """Of a model of one length: masked rows are zeros."""
    mask = b("Cast", b.input("attention_mask", [1, TOKENS], onnx.TensorProto.INT64), to=onnx.TensorProto.FLOAT)
    x = b("Mul", x, b("Unsqueeze", mask, b.const(np.array([2]))))
    return mean(b, b("Softmax", x, axis=1))


@pytest.mark.parametrize(("pooling", "gap"), [(mean, 0), (first, 0), (mean_over_columns, -1)])
def test_pooling_in_the_graph(pooling: Callable, gap: int, texts: list[str], graph: type, tmp_path: Path) -> None:
    b = graph()
    ids = b.input("input_ids", [1, TOKENS], onnx.TensorProto.INT64)
    x = b("Gather", b.normal(len(PIECES), WIDTH), ids)
    x = b("Add", b.attention(x, TOKENS, 2, WIDTH // 2), b("Add", x, b.normal(TOKENS, WIDTH)))
    model = b.model(pooling(b, x))
    old = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["sentence_embedding" if name == old else name for name in node.output]
    model.graph.output[0].name = "sentence_embedding"
    onnx.save(model, tmp_path / "model.onnx")
    require_bits_of_each_alone(tmp_path / "model.onnx", texts, gap, "embed")
