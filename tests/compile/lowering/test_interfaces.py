"""In- and outputs of models that are not only tokens in and vectors out."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto


def test_parts_of_different_sizes_and_parts_that_lie_apart(graph: type, agree: Callable) -> None:
    """A split of columns is three views; one between heads, as of Q, K and V side by side, is three copies."""
    b = graph()
    x = b.input("x", [1, 8, 30])
    columns = b("Split", x, b.const(np.array([7, 20, 3])), axis=2, outputs=3)
    heads = b("Split", b("Reshape", x, b.const(np.array([1, 8, 3, 10]))), axis=2, num_outputs=3, outputs=3)
    tokens = b("Split", x, b.const(np.array([5, 3])), axis=1, outputs=2)
    results = [b("Relu", part) for part in (columns[1], *tokens)]
    agree(b.model(*results, columns[0], *(b("Squeeze", part, b.const(np.array([2]))) for part in heads)))


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL])
def test_an_input_of_any_type_that_is_an_output(graph: type, agree: Callable, kind: int) -> None:
    b = graph()
    ids = b.input("ids", [1, 8], kind)
    x = b("Relu", b.input("x", [1, 8, 4]))
    agree(b.model(x, b("Identity", ids)))


def test_features_beside_the_tokens(graph: type, agree: Callable) -> None:
    b = graph()
    x = b("Gather", b.normal(50, 6), b.input("input_ids", [1, 8], TensorProto.INT64))
    features = b("Reshape", b.linear(b.input("features", [1, 3]), 3, 6), b.const(np.array([1, 1, 6])))
    agree(b.model(b("Add", x, features)))


def test_names_that_are_one_c_identifier_are_not_swapped(graph: type, agree: Callable) -> None:
    b = graph()
    first, second, third = (b.input(name, [1, 8, 4]) for name in ("x_1", "x.1", "1x"))
    agree(b.model(b("Sub", first, b("Mul", second, b("Exp", third)))))
