"""passed_on: which nodes hand the last axis on whole, so that a scale along it may pass them."""

import numpy as np
import onnx_ir as ir
import pytest

from passes import linear
from passes.absorb import add_shift, can_scale, passed_on
from passes.graph import infer_shapes


def indices(b, *values):
    return b.const(np.array(values))


CASES = {
    "identity": (lambda b, x: b("Identity", x), True),
    "reshape of the other axes": (lambda b, x: b("Reshape", x, indices(b, 6, 4)), True),
    "reshape of the last axis": (lambda b, x: b("Reshape", x, indices(b, 2, 12)), False),
    "transpose of the other axes": (lambda b, x: b("Transpose", x, perm=[1, 0, 2]), True),
    "transpose of the last axis": (lambda b, x: b("Transpose", x, perm=[0, 2, 1]), False),
    "transpose of the last axis to the front": (lambda b, x: b("Transpose", x, perm=[2, 1, 0]), False),
    "unsqueeze before": (lambda b, x: b("Unsqueeze", x, indices(b, 1)), True),
    "unsqueeze behind": (lambda b, x: b("Unsqueeze", x, indices(b, 3)), False),
    "gather of tokens": (lambda b, x: b("Gather", x, indices(b, 0), axis=1), True),
    "gather of rows, the axis left out": (
        lambda b, x: b("Gather", b("Reshape", x, indices(b, 6, 4)), indices(b, 1)),
        True,
    ),
    "gather of columns": (lambda b, x: b("Gather", x, indices(b, 0, 1, 2, 3), axis=2), False),
    "gather of columns from behind": (lambda b, x: b("Gather", x, indices(b, 3, 2, 1, 0), axis=-1), False),
    "slice of tokens": (lambda b, x: b("Slice", x, indices(b, 0), indices(b, 1), indices(b, 1)), True),
    "slice of columns": (
        lambda b, x: b("Slice", x, indices(b, 3), indices(b, -9), indices(b, 2), indices(b, -1)),
        False,
    ),
    "slice of columns from behind": (
        lambda b, x: b("Slice", x, indices(b, 3), indices(b, -9), indices(b, -1), indices(b, -1)),
        False,
    ),
    "softmax": (lambda b, x: b("Softmax", x), False),
    "split": (lambda b, x: b("Split", x, outputs=2, axis=0, num_outputs=2)[0], False),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_leaves_the_last_axis_alone_passes_it_on(build, case):
    b = build()
    make, passes_it_on = CASES[case]
    node = list(inferred(b.model(make(b, b.input("x", [2, 3, 4])))))[-1]
    assert (passed_on(node) is node.inputs[0]) == passes_it_on


@pytest.mark.parametrize(("shape", "kind"), [([4], 1), ([3, 1], 1), ([3, 4], 7)])
def test_a_vector_one_column_or_integers_are_not_passed_on(build, shape, kind):
    b = build()
    node = list(ir.from_proto(b.model(b("Identity", b.input("x", shape, kind)))).graph)[-1]
    assert passed_on(node) is None


def inferred(model):
    model = ir.from_proto(model)
    infer_shapes(model)
    return model.graph


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize(("large", "may"), [(40, {1, 2}), (32, {1}), (31, {1})])
def test_a_large_table_that_others_read_takes_no_scale(build, monkeypatch, readers, large, may):
    monkeypatch.setattr(linear, "LARGE", large)
    b = build()
    table = b.normal(8, 4)
    rows = [b("Gather", table, b.input(f"ids{n}", [2, 3], 7)) for n in range(readers)]
    graph = inferred(b.model(*[b("Relu", y) for y in rows]))
    assert can_scale(graph.node(0).outputs[0]) == (readers in may)


def test_a_table_of_other_ranks_or_looked_up_by_columns_takes_no_scale(build):
    for shape, axis, may in (([8, 4], 0, True), ([8, 4], 1, False), ([2, 8, 4], 0, False)):
        b = build()
        graph = inferred(b.model(b("Relu", b("Gather", b.normal(*shape), b.input("ids", [4], 7), axis=axis))))
        assert can_scale(graph.node(0).outputs[0]) is may


def test_only_a_writer_with_a_constant_of_its_own_takes_a_shift(build):
    makers = {
        "gemm": lambda b, x: b.linear(x, 4, 4, gemm=True),
        "matmul": lambda b, x: b.linear(x, 4, 4, bias=False),
        "sum with a constant": lambda b, x: b("Add", x, b.normal(4)),
        "constant in front": lambda b, x: b("Add", b.normal(4), x),
        "sum with one number": lambda b, x: b("Add", x, b.normal(1)),
        "sum of two": lambda b, x: b("Add", x, b("Tanh", x)),
        "behind a reshape": lambda b, x: b("Reshape", b.linear(x, 4, 4, gemm=True), indices(b, 1, 3, 4)),
        "behind a function": lambda b, x: b("Tanh", b.linear(x, 4, 4, gemm=True)),
    }
    took = {}
    for name, make in makers.items():
        b = build()
        graph = inferred(b.model(b("Relu", make(b, b.input("x", [3, 4])))))
        took[name] = add_shift(list(graph)[-1].inputs[0], np.ones(4))
    assert [name for name, did in took.items() if did] == [
        "gemm", "sum with a constant", "constant in front", "behind a reshape"
    ]  # fmt: skip
