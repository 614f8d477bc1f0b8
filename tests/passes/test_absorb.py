"""passed_on: which nodes hand the last axis on whole, so that a scale along it may pass them."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.absorb import passed_on


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
    graph = ir.from_proto(b.model(make(b, b.input("x", [2, 3, 4])))).graph
    node = list(graph)[-1]
    assert (passed_on(node) is graph.inputs[0]) == passes_it_on


@pytest.mark.parametrize(("shape", "kind"), [([4], 1), ([3, 1], 1), ([3, 4], 7)])
def test_a_vector_one_column_or_integers_are_not_passed_on(build, shape, kind):
    b = build()
    node = list(ir.from_proto(b.model(b("Identity", b.input("x", shape, kind)))).graph)[-1]
    assert passed_on(node) is None
