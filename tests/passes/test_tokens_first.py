"""tokens_first: convolutions over tokens as linears."""

import numpy as np
import pytest

T, C = 8, 12


def tokens_in_columns(b, size=C):
    return b("Transpose", b.input("x", [1, T, size]), perm=[0, 2, 1])


def kinds(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("op", ["Relu", "Tanh"])
def test_one_token_is_a_plain_linear(build, check, op):
    b = build()
    y = b(op, b("Conv", tokens_in_columns(b), b.normal(6, C, 1), b.normal(6)))
    result, _ = check(b.model(b("Transpose", y, perm=[0, 2, 1])), "tokens_first")
    assert kinds(result) == ["MatMul", "Add", op]


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_blocks_of_one_matrix(build, check, groups):
    b = build()
    y = b("Conv", tokens_in_columns(b), b.normal(8, C // groups, 1), b.normal(8), group=groups)
    result, _ = check(b.model(b("Transpose", y, perm=[0, 2, 1])), "tokens_first")
    assert kinds(result) == ["MatMul", "Add"]


@pytest.mark.parametrize(
    ("width", "attributes"),
    [(3, {"pads": [1, 1]}), (2, {"pads": [0, 1]}), (4, {"pads": [3, 0]}), (3, {"pads": [2, 2], "dilations": [2]})],
)
def test_several_tokens_are_read_side_by_side(build, check, ops, width, attributes):
    b = build()
    y = b("Conv", tokens_in_columns(b), b.normal(6, C, width), b.normal(6), **attributes)
    result, _ = check(b.model(b("Transpose", y, perm=[0, 2, 1])), "tokens_first")
    assert ops(result, "Conv", "Transpose") == 0
    assert ops(result, "MatMul") == 1


def test_an_output_with_channels_first_stays_one(build, check, ops):
    b = build()
    y = b("Conv", tokens_in_columns(b), b.normal(6, C, 1))
    result, _ = check(b.model(y, b("Neg", y)), "tokens_first")
    assert ops(result, "Conv") == 0
    assert result.graph.output[0].name == y


def test_residuals_constants_and_norms_between(build, check, ops):
    b = build()
    x = tokens_in_columns(b)
    y = b("Add", b("Conv", x, b.normal(C, C, 1)), x)
    y = b("Mul", b("Add", y, b.normal(C, 1)), b.const(np.float32(0.5)))
    y = b("LayerNormalization", b("Transpose", y, perm=[0, 2, 1]), b.normal(C), b.normal(C))
    result, _ = check(b.model(y), "tokens_first")
    assert ops(result, "Transpose", "Conv") == 0


def test_attention_with_channels_first(build, check, ops):
    """As SqueezeBERT writes it: heads are split from the channels."""
    b = build()
    x = tokens_in_columns(b)
    heads = b.const(np.array([1, 3, 4, T]))
    q, k, v = (b("Reshape", b("Conv", x, b.normal(C, C, 1), b.normal(C)), heads) for _ in range(3))
    q, v = (b("Transpose", part, perm=[0, 1, 3, 2]) for part in (q, v))
    context = b("MatMul", b("Softmax", b("MatMul", q, k), axis=-1), v)
    joined = b("Reshape", b("Transpose", context, perm=[0, 1, 3, 2]), b.const(np.array([1, C, T])))
    y = b("Conv", joined, b.normal(C, C, 1))
    result, _ = check(b.model(b("Transpose", y, perm=[0, 2, 1])), "tokens_first")
    turned = [tuple(node.attribute[0].ints) for node in result.graph.node if node.op_type == "Transpose"]
    assert sorted(turned) == [(0, 2, 1, 3)] * 3 + [(0, 2, 3, 1)]


@pytest.mark.parametrize("axis", [1, -2])
def test_a_reduction_over_channels_reads_what_it_did(build, check, axis):
    b = build()
    y = b("Relu", b("Conv", tokens_in_columns(b), b.normal(6, C, 3), pads=[1, 1]))
    check(b.model(b("ReduceMax", y, b.const(np.array([axis])), keepdims=0)), "tokens_first")


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMean", "GlobalMaxPool", "GlobalAveragePool"])
def test_pools_over_tokens(build, check, ops, op):
    b = build()
    y = b("Relu", b("Conv", tokens_in_columns(b), b.normal(6, C, 3), pads=[1, 1]))
    pooled = b(op, y) if op.startswith("Global") else b(op, y, b.const(np.array([-1])), keepdims=0)
    result, _ = check(b.model(b("Neg", pooled)), "tokens_first")
    assert ops(result, "Conv", "Transpose", "GlobalMaxPool", "GlobalAveragePool") == 0


@pytest.mark.parametrize(
    ("channels", "width", "attributes"),
    [
        (C, 3, {}),  # fewer tokens than before
        (C, 2, {"strides": [2], "pads": [0, 1]}),
        (1, 3, {"pads": [1, 1], "group": C}),  # each channel alone
        (1, 1, {"group": C}),
        (C, 3, {"auto_pad": "SAME_UPPER"}),
        (C, 2 * T + 1, {"pads": [T, T]}),  # reads further than there are tokens
    ],
)
def test_other_convolutions_stay(build, check, ops, applied, channels, width, attributes):
    b = build()
    y = b("Conv", tokens_in_columns(b), b.normal(C, channels, width), **attributes)
    result, report = check(b.model(b("Relu", y)), "tokens_first")
    assert applied(report, "tokens_first") == 0
    assert ops(result, "Conv") == 1


def test_weights_that_a_caller_may_change_stay(build, check, applied):
    b = build()
    y = b("Conv", tokens_in_columns(b), b.input("w", [6, C, 1]))
    _, report = check(b.model(b("Relu", y)), "tokens_first")
    assert applied(report, "tokens_first") == 0
