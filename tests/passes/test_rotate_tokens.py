"""rotate_tokens: a rotation stands before the heads are parted, and what mixes tokens or heads stays behind."""

import numpy as np
import pytest

SHAPE = [1, 6, 2, 4]  # batch, tokens, heads, channels


def heads(b, name="x", shape=SHAPE, perm=(0, 2, 1, 3)):
    return b("Transpose", b("Relu", b.input(name, shape)), perm=list(perm))


def part(b, x, begin, end, axes=(3,)):
    return b("Slice", x, *(b.const(np.array(values)) for values in ([begin] * len(axes), [end] * len(axes), axes)))


@pytest.mark.parametrize("last", [3, -1])
def test_a_rotation_acts_on_tokens(build, check, ops, last):
    b = build()
    x = heads(b)
    second = part(b, x, 2, 4, [last])
    turned = b("Concat", b("Neg", second), part(b, x, 0, 2, [last]), axis=last)
    y = b("Add", b("Mul", x, b.normal(1, 1, 6, 4)), b("Mul", turned, b.normal(1, 1, 6, 4)))
    result, report = check(b.model(y), "rotate_tokens")
    assert report.passes[0].applied == 7
    assert [node.op_type for node in result.graph.node][-1] == "Transpose"
    assert ops(result, "Transpose") == 1


def test_a_bias_of_each_head_and_a_sum_of_two_streams(build, check, ops):
    b = build()
    y = b("Add", b("Add", heads(b), b.normal(1, 2, 1, 4)), heads(b, "y"))
    result, report = check(b.model(y), "rotate_tokens")
    assert (report.passes[0].applied, ops(result, "Transpose")) == (2, 1)


def test_a_scale_before_and_angles_that_are_computed(build, check, ops):
    """As ESM has it, whose positions come from its mask."""
    b = build()
    x = b("Mul", heads(b), b.const(np.float32(0.5)))
    turned = b("Concat", b("Neg", part(b, x, 2, 4)), part(b, x, 0, 2), axis=3)
    cos, sin = (b("Tanh", b.input(name, [1, 1, 6, 4])) for name in ("cos", "sin"))
    result, _ = check(b.model(b("Add", b("Mul", x, cos), b("Mul", turned, sin))), "rotate_tokens")
    assert result.graph.node[-1].op_type == "Transpose"
    assert ops(result, "Transpose") == 1


def test_a_rotation_of_neighbours(build, check, ops):
    b = build()
    x = heads(b)
    turned = b("Mul", b("Gather", x, b.const(np.array([1, 0, 3, 2])), axis=-1), b.const(np.array([-1.0, 1, -1, 1])))
    y = b("Add", b("Mul", x, b.normal(1, 1, 6, 4)), b("Mul", turned, b.normal(1, 1, 6, 4)))
    result, _ = check(b.model(y), "rotate_tokens")
    assert ops(result, "Transpose") == 1


@pytest.mark.parametrize(
    "after",
    [
        lambda b, x: part(b, x, 0, 3, [2]),
        lambda b, x: part(b, x, 0, 1, [-3]),
        lambda b, x: part(b, x, 0, 2, [2, 3]),
        lambda b, x: b("Slice", x, b.const(np.array([0, 0, 0, 0])), b.const(np.array([1, 2, 6, 2]))),
        lambda b, x: b("Concat", x, x, axis=2),
        lambda b, x: b("Concat", x, b.normal(1, 2, 6, 4), axis=3),
        lambda b, x: b("Mul", x, b.const(np.float32(0.5))),
        lambda b, x: b("Mul", x, b.normal(1, 1, 1, 1)),
        lambda b, x: b("Mul", x, b.normal(6, 4)),
        lambda b, x: b("Add", x, b.input("y", [1, 2, 6, 4])),
        lambda b, x: b("Mul", x, b.normal(3, 1, 6, 4)),
        lambda b, x: b("Softmax", x, axis=3),
        lambda b, x: b("Gather", x, b.const(np.array([1, 0])), axis=2),
        lambda b, x: b("Gather", x, b("Cast", b.input("places", [4]), to=7), axis=3),
        lambda b, x: b("Neg", b("Tanh", x)),
        lambda b, x: part(b, b("Tanh", x), 0, 2),
    ],
)
def test_what_is_no_step_of_a_rotation_stays(build, check, after):
    b = build()
    _, report = check(b.model(after(b, heads(b))), "rotate_tokens")
    assert report.passes[0].applied == 0


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ([2, 6, 2, 4], (0, 2, 1, 3)),
        ([1, "t", 2, 4], (0, 2, 1, 3)),
        (SHAPE, (0, 2, 3, 1)),
        (SHAPE, (0, 1, 2, 3)),
        ([6, 2, 4], (1, 0, 2)),
    ],
)
def test_other_axes_stay(build, check, shape, perm):
    b = build()
    _, report = check(b.model(b("Neg", heads(b, "x", shape, perm))), "rotate_tokens")
    assert report.passes[0].applied == 0
