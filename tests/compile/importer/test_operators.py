"""Operators that TVM's importer lacks or gets wrong: as ONNX Runtime has them, or refused by node with the reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import compile
from compile.errors import CompileError
from compile.importer.functions import spelt_out
from compile.importer.graph import import_model, importable_operators
from passes.verify import open_session

RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}


def test_the_k_first_along_any_axis(graph: type, agree: Callable) -> None:
    """With equal elements, of which the first comes first."""
    b = graph()
    x = b("Floor", b("Mul", b.input("x", [1, 8, 10]), b.const(2.0)))
    outputs = []
    for k, attributes in ((3, {}), (8, {"axis": 1, "largest": 0}), (10, {"axis": 2, "largest": 0}), (1, {"axis": -2})):
        outputs += b("TopK", x, b.const(np.array([k])), outputs=2, **attributes)
    outputs.append(b("TopK", b("Cast", x, to=TensorProto.INT64), b.const(np.array([2])), outputs=2)[1])
    agree(b.model(*outputs))


def test_what_is_not_a_number_is_larger_than_all_numbers(graph: type, agree: Callable) -> None:
    b = graph()
    x = b.input("x", [1, 8, 6])
    y, _ = b("TopK", x, b.const(np.array([3])), outputs=2)
    z, places = b("TopK", x, b.const(np.array([3])), outputs=2, largest=0)
    values = np.tile(np.float32([0.5, np.nan, -np.inf, np.inf, np.nan, 2.0]), (1, 8, 1))
    with compile.load(agree(b.model(y, z, places))) as library:
        got = library.run({"x": values})
    np.testing.assert_array_equal(got[y][0, 0], [np.nan, np.nan, np.inf])
    np.testing.assert_array_equal(got[z][0, 7], [-np.inf, 0.5, 2.0])
    np.testing.assert_array_equal(got[places][0, 7], [2, 0, 5])


def recurrent(b, op: str, x: str, directions: int, units: int, size: int, *initial: str, **attributes) -> list[str]:
    gates = RECURRENT[op]
    weights = [b.normal(directions, gates * units, n, scale=0.5) for n in (size, units)]
    bias = b.normal(directions, 2 * gates * units, scale=0.5)
    return b(op, x, *weights, bias, "", *initial, hidden_size=units, outputs=3 if op == "LSTM" else 2, **attributes)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LSTM", {}),
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"linear_before_reset": 0}),
        ("RNN", {"activations": ["Relu", "Tanh"]}),
    ],
)
def test_recurrent_heads_in_all_directions(op: str, attributes: dict, graph: type, agree: Callable) -> None:
    """On tokens, as PyTorch writes them: the steps first."""
    b = graph()
    x = b("Transpose", b.input("x", [1, 8, 6]), perm=[1, 0, 2])
    first = {key: value[:1] if key == "activations" else value for key, value in attributes.items()}
    outputs = recurrent(b, op, x, 1, 5, 6, **first)
    outputs += recurrent(b, op, x, 1, 5, 6, direction="reverse", **first)
    outputs += recurrent(b, op, x, 2, 3, 6, direction="bidirectional", **attributes)
    agree(b.model(*outputs))


def test_a_recurrence_goes_on_from_what_it_is_given(graph: type, agree: Callable) -> None:
    b = graph()
    x = b("Transpose", b.input("x", [2, 8, 6]), perm=[1, 0, 2])
    state, cell = b.input("state", [1, 2, 4]), b.input("cell", [1, 2, 4])
    outputs = recurrent(b, "LSTM", x, 1, 4, 6, state, cell, b.normal(1, 12))
    agree(b.model(*outputs, *recurrent(b, "GRU", x, 1, 4, 6, state)))


@pytest.mark.parametrize(
    ("attributes", "lengths", "word"),
    [
        ({"clip": 1.0}, False, "clip"),
        ({"activations": ["Softsign", "Tanh", "Tanh"]}, False, "Softsign"),
        ({}, True, "lengths"),
    ],
)
def test_recurrences_that_are_refused(attributes: dict, lengths: bool, word: str, graph: type) -> None:
    b = graph()
    x = b("Transpose", b.input("x", [1, 8, 6]), perm=[1, 0, 2])
    counts = [b.input("counts", [1], TensorProto.INT32)] if lengths else []
    parts = [b.normal(1, 16, 6), b.normal(1, 16, 4), *([""] * lengths), *counts]
    y = b("LSTM", x, *parts, hidden_size=4, outputs=1, name="culprit", **attributes)
    with pytest.raises(CompileError, match=rf"operator LSTM \(node 'culprit'\) cannot be lowered.*{word}"):
        import_model(b.model(y), 8)


def test_heads_of_convolutions_and_pools_over_tokens(graph: type, agree: Callable) -> None:
    b = graph()
    x = b("Transpose", b.input("x", [1, 8, 6]), perm=[0, 2, 1])
    y = b("Relu", b("Conv", x, b.normal(5, 6, 3), b.normal(5), pads=[1, 1]))
    halves = b("Conv", x, b.normal(4, 3, 2), strides=[2], group=2)
    wide = b("Conv", b("Unsqueeze", x, b.const(np.array([1]))), b.normal(3, 1, 2, 3), dilations=[1, 2])
    pools = [b("MaxPool", y, kernel_shape=[2], strides=[2]), b("GlobalMaxPool", y), b("GlobalAveragePool", y)]
    pools.append(b("AveragePool", wide, kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=0))
    agree(b.model(*pools, halves, b("ConvTranspose", y, b.normal(5, 2, 3), strides=[2])))


def test_means_of_windows_that_reach_beyond_the_end(graph: type, agree: Callable) -> None:
    """As Funnel halves its tokens: the last window has what is left."""
    b = graph()
    x = b("Unsqueeze", b.input("x", [1, 9, 6]), b.const(np.array([1])))
    options = [
        {"kernel_shape": [2, 1], "strides": [2, 1], "ceil_mode": 1},
        {"kernel_shape": [2, 1], "strides": [2, 1], "ceil_mode": 1, "count_include_pad": 1},
        {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 1, 1, 0], "ceil_mode": 1, "count_include_pad": 1},
        {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 1, 1, 0], "ceil_mode": 1},
        {"kernel_shape": [2, 1], "strides": [3, 1], "pads": [0, 0, 1, 0], "ceil_mode": 1},  # none begins in padding
        {"kernel_shape": [4, 3], "strides": [3, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [4, 3], "strides": [3, 2], "auto_pad": "SAME_LOWER", "count_include_pad": 1},
        {"kernel_shape": [3, 2], "auto_pad": "VALID"},
    ]
    agree(b.model(*(b("AveragePool", x, **one) for one in options)), tokens=9)


def test_a_mask_that_no_rule_reads_is_named(graph: type, tmp_path: Path) -> None:
    b = graph()
    x, mask = b.input("x", [1, 8, 16]), b.input("ends", [5], TensorProto.INT32)
    weights = b.normal(16, 48), b.normal(48)
    y = b("Attention", x, *weights, mask, num_heads=2, domain="com.microsoft", name="culprit")
    onnx.save(b.model(y), tmp_path / "m.onnx")
    with pytest.raises(CompileError, match=r"'culprit'.*its mask 'ends' of 5 integers is neither an end for each"):
        compile.build(tmp_path / "m.onnx", target="host", seq_len=8, out=tmp_path / "out", verify_passes=False)


def test_parts_of_any_size(graph: type, agree: Callable) -> None:
    b = graph()
    x = b.input("x", [1, 8, 10])
    parts = b("Split", x, b.const(np.array([3, 5, 2])), axis=2, outputs=3)
    rows = b("Split", x, b.const(np.array([3, 5])), axis=1, outputs=2)
    agree(b.model(*(b("Relu", part) for part in (*parts, *rows)), *b("Split", x, num_outputs=3, axis=1, outputs=3)))


def test_rows_and_elements_are_written(graph: type, agree: Callable) -> None:
    b = graph()
    x = b.input("x", [1, 8, 6])
    rows = b("ScatterND", x, b.const(np.array([[0, 2], [0, -1]])), b.normal(2, 6))
    added = b("ScatterND", x, b.const(np.array([[0, 2], [0, 2]])), b.normal(2, 6), reduction="add")
    places = b.const(np.array([[[5, 1], [0, -2]]]))
    elements = b("ScatterElements", x, places, b.normal(1, 2, 2), axis=2)
    agree(b.model(rows, added, elements))


def test_bits_are_shifted_by_any_number(graph: type, agree: Callable) -> None:
    b = graph()
    x, count = (b("Cast", b.input(name, [1, 8], TensorProto.INT64), to=TensorProto.UINT32) for name in ("x", "count"))
    shifted = [b("BitShift", x, count, direction=direction) for direction in ("LEFT", "RIGHT")]
    path = agree(b.model(*(b("Cast", y, to=TensorProto.INT64) for y in shifted)))
    given = {"x": np.array([[1, 5, 1 << 31, 3, 9, 9, 9, 7]]), "count": np.array([[0, 1, 31, 32, 33, 64, 1000, 4]])}
    with compile.load(path) as library:
        left, right = library.run(given).values()
    wanted = [[1, 10, 0, 0, 0, 0, 0, 112], [1, 2, 1, 0, 0, 0, 0, 0]]
    assert [left[0].tolist(), right[0].tolist()] == wanted


def test_the_first_of_the_greatest_is_one(graph: type, agree: Callable) -> None:
    b = graph()
    x = b("Floor", b.input("x", [1, 8, 6]))
    agree(b.model(b("Hardmax", x), b("Hardmax", x, axis=1)))


def test_norms_of_channels_and_lengths(graph: type, agree: Callable) -> None:
    b = graph()
    x = b.input("x", [2, 8, 6])
    numbers = [b.normal(8), b.normal(8), b.normal(8), b.const(np.linspace(0.5, 2, 8))]
    zeros = b("Mul", x, b.const(np.eye(8, 6)[None]))  # some rows of nothing else
    norms = [b("LpNormalization", zeros, axis=-1, p=p) for p in (1, 2)]
    agree(b.model(b("BatchNormalization", x, *numbers, epsilon=0.1), *norms))


def test_an_operator_that_onnx_defines_by_others_becomes_those(graph: type, agree: Callable) -> None:
    b = graph()
    x, labels = b.input("x", [2, 8, 5]), b.const(np.array([[0, 4, 1, 2, 3], [7, 7, 6, 5, 0]]))
    loss = b("SoftmaxCrossEntropyLoss", x, labels, reduction="mean")
    model = b.model(loss, b("Celu", x, alpha=0.7), b("MeanVarianceNormalization", x, axes=[0, 2]))
    kinds = {node.op_type for node in spelt_out(model, importable_operators()).graph.node}
    assert not kinds & {"SoftmaxCrossEntropyLoss", "Celu"}
    assert "MeanVarianceNormalization" in kinds  # TVM has it
    agree(model)


def test_a_model_of_known_operators_is_left_as_it_is(graph: type) -> None:
    b = graph()
    model = b.model(b("Relu", b.input("x", [1, 8])))
    assert spelt_out(model, importable_operators()) is model


def branch(b, *nodes: tuple[str, list[str], str], shape: list[int]) -> onnx.GraphProto:
    made = [onnx.helper.make_node(op, inputs, [output]) for op, inputs, output in nodes]
    return onnx.helper.make_graph(made, "branch", [], [onnx.helper.make_tensor_value_info(nodes[-1][2], 1, shape)])


def test_a_choice_between_branches_is_computed(graph: type, agree: Callable, tmp_path: Path) -> None:
    b = graph()
    x, flag = b.input("x", [1, 8, 4]), b.input("flag", [1], TensorProto.BOOL)
    then = branch(b, ("Exp", [x], "e"), ("Neg", ["e"], "n"), shape=[1, 8, 4])
    otherwise = branch(b, ("Tanh", [x], "e"), shape=[1, 8, 4])
    y = b("If", flag, then_branch=then, else_branch=otherwise)
    model = b.model(b("Add", y, x))
    given = {"x": np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 8, 4)}
    with compile.load(agree(model)) as library:
        for truth in (True, False):
            given["flag"] = np.array([truth])
            want = open_session(model).run(None, given)[0]
            np.testing.assert_allclose(next(iter(library.run(given).values())), want, rtol=1e-5, atol=1e-6)
