"""fuse_layer_norm: the ways exporters write it, and look-alikes."""

import numpy as np
import pytest


def layer_norm(b, x, size, *, rank=3, form="div", axis=-1, gamma=None, turned=False):
    axes = b.const(np.array([rank - 1 if axis == "positive" else axis]))
    mean = b("ReduceMean", x, axes, keepdims=1)
    deviation = b("Sub", x, mean)
    square = b("Mul", deviation, deviation) if form == "tensorflow" else b("Pow", deviation, b.const(2.0))
    order = -1 if turned else 1
    root = b("Sqrt", b("Add", *[b("ReduceMean", square, axes, keepdims=1), b.const(1e-5)][::order]))
    gamma = gamma or b.normal(size)
    if form == "tensorflow":
        factor = b("Mul", b("Reciprocal", root), gamma)
        return b("Add", b("Mul", x, factor), b("Sub", b.normal(size), b("Mul", mean, factor)))
    scaled = b("Mul", *[b("Div", deviation, root), gamma][::order])
    return b("Add", *[scaled, b.normal(size)][::order])


@pytest.mark.parametrize("form", ["div", "tensorflow"])
@pytest.mark.parametrize("axis", [-1, "positive"])
def test_layer_norm_is_recognised(build, check, form, axis):
    b = build()
    y = layer_norm(b, b.input("x", [2, 3, 8]), 8, form=form, axis=axis)
    result, _ = check(b.model(y), "fuse_layer_norm", bound=1e-6)
    assert [node.op_type for node in result.graph.node] == ["LayerNormalization"]


def test_constants_in_front_of_what_they_are_added_to_or_multiply(build, check):
    b = build()
    result, _ = check(b.model(layer_norm(b, b.input("x", [2, 3, 8]), 8, turned=True)), "fuse_layer_norm")
    assert [node.op_type for node in result.graph.node] == ["LayerNormalization"]


def test_a_second_vector_that_is_added_is_not_beta(build, check, ops):
    b = build()
    y = b("Add", layer_norm(b, b.input("x", [2, 3, 8]), 8), b.normal(8))
    result, _ = check(b.model(y), "fuse_layer_norm", bound=1e-6)
    assert (ops(result, "LayerNormalization"), ops(result, "Add")) == (1, 1)


@pytest.mark.parametrize("case", ["other_axis", "scale_per_token", "a_vector_a_token", "scale_at_run_time"])
def test_look_alikes_of_layer_norm_stay(build, check, ops, case):
    b = build()
    x = b.input("x", [2, 8, 8])
    kinds = {"scale_per_token": (8, 1), "a_vector_a_token": (8, 8)}
    gamma = b.input("g", [8]) if case == "scale_at_run_time" else b.normal(*kinds[case]) if case in kinds else None
    y = layer_norm(b, x, 8, axis=1 if case == "other_axis" else -1, gamma=gamma)
    result, _ = check(b.model(y), "fuse_layer_norm", bound=1e-6)
    assert ops(result, "LayerNormalization") == 0
