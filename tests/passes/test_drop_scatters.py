"""drop_scatters: what writes everything, or nothing."""

import numpy as np
import pytest


def scattered(b, indices, rows, **attributes):
    updates = b("Exp", b.input("u", [len(indices), 5] if rows else [*np.shape(indices)[:-1]]))
    return b("ScatterND", b.input("x", [3, 5]), b.const(np.asarray(indices)), updates, **attributes)


def test_all_rows_in_order_are_what_is_written(build, check, ops, applied):
    b = build()
    result, report = check(b.model(b("Neg", scattered(b, [[0], [1], [-1]], True))), "drop_scatters")
    assert ops(result, "ScatterND") == 0
    assert applied(report, "drop_scatters") == 1


@pytest.mark.parametrize(("last", "stays"), [((2, 4), 0), ((2, 3), 1)])
def test_all_elements_in_order_are_what_is_written_in_their_shape(build, check, ops, last, stays):
    """As X-MOD's adapters write them: a row of places for each element."""
    b = build()
    indices = np.indices((3, 5)).reshape(2, 15).T.copy()
    indices[-1] = last
    result, _ = check(b.model(b("Neg", scattered(b, indices, False))), "drop_scatters")
    assert ops(result, "ScatterND") == stays


def test_no_rows_change_nothing(build, check, ops):
    b = build()
    x = b.input("x", [3, 5])
    y = b("ScatterND", x, b.const(np.zeros((0, 1), np.int64)), b.const(np.zeros((0, 5), np.float32)))
    result, _ = check(b.model(b("Neg", y)), "drop_scatters")
    assert [node.op_type for node in result.graph.node] == ["Neg"]


@pytest.mark.parametrize(
    ("indices", "attributes"),
    [
        ([[0], [1]], {}),  # not all
        ([[1], [0], [2]], {}),
        ([[0], [1], [1]], {}),
        ([[0], [1], [2]], {"reduction": "add"}),
    ],
)
def test_what_mixes_both_stays(build, check, ops, indices, attributes):
    b = build()
    result, _ = check(b.model(b("Neg", scattered(b, indices, True, **attributes))), "drop_scatters")
    assert ops(result, "ScatterND") == 1
