"""drop_gathers: which lookups need none."""

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("indices", "axis", "dropped"),
    [
        (np.arange(4).reshape(1, 1, 4), 0, True),
        (np.arange(4), 0, True),
        (np.arange(4), None, True),  # along the first, where nothing is said
        (np.arange(3), 0, False),  # not all rows
        (np.array([1, 0, 2, 3]), 0, False),
        (np.array([0, 1, 2, 2]), 0, False),
        (np.arange(5), 1, False),  # along another axis
    ],
)
def test_a_lookup_of_all_rows_in_order_is_a_reshape(build, check, applied, indices, axis, dropped):
    b = build()
    y = b("Relu", b("Gather", b.input("x", [4, 5]), b.const(indices), **({} if axis is None else {"axis": axis})))
    _, report = check(b.model(y), "drop_gathers")
    assert applied(report, "drop_gathers") == dropped


@pytest.mark.parametrize("op", ["Gather", "GatherElements"])
@pytest.mark.parametrize("equal", [True, False])
def test_a_lookup_among_equals_is_their_value(build, check, applied, ops, op, equal):
    b = build()
    table = np.full((5, 3), 7.0, np.float32)
    if not equal:
        table[4, 2] = 6
    ids = b("Cast", b.input("x", [2, 3], 7), to=7)
    y = b("Relu", b(op, b.const(table), ids, axis=0))
    result, report = check(b.model(y), "drop_gathers")
    assert applied(report, "drop_gathers") == equal
    assert ops(result, op) == (not equal)


def test_an_output_that_was_a_lookup_keeps_its_name(build, check):
    b = build()
    y = b("Gather", b.input("x", [4, 5]), b.const(np.arange(4)))
    result, _ = check(b.model(y), "drop_gathers")
    assert [output.name for output in result.graph.output] == [y]


@pytest.mark.parametrize(
    ("indices", "dropped"),
    [
        ([[0], [1], [2]], True),
        ([[[0, 0], [0, 1]], [[1, 0], [1, 1]], [[2, 0], [2, 1]]], True),
        ([[0], [2], [1]], False),
        ([[0, 0], [1, 0], [2, 0]], False),  # a column
    ],
)
def test_a_lookup_of_all_places_in_order_is_a_reshape(build, check, applied, indices, dropped):
    """As dynamo's exports make their masks."""
    b = build()
    y = b("Relu", b("GatherND", b.input("x", [3, 2]), b.const(np.array(indices))))
    _, report = check(b.model(y), "drop_gathers")
    assert applied(report, "drop_gathers") == dropped


def test_a_lookup_in_each_of_a_batch_stays(build, check, applied):
    b = build()
    y = b("Relu", b("GatherND", b.input("x", [3, 3]), b.const(np.array([[0], [1], [2]])), batch_dims=1))
    _, report = check(b.model(y), "drop_gathers")
    assert applied(report, "drop_gathers") == 0


@pytest.mark.parametrize(
    ("bounds", "cut"),
    [
        (([0], [4], [0]), False),
        (([-4], [2**63 - 1], [0], [1]), False),  # as XLM keeps the last tokens
        (([0, 0], [9, 9], [0, 1]), False),
        (([1], [4], [0]), True),
        (([0], [5], [1], [2]), True),
        (([-1], [-(2**63) + 1], [0], [-1]), True),  # backwards
    ],
)
def test_a_slice_of_everything_is_what_it_slices(build, check, ops, bounds, cut):
    b = build()
    y = b("Neg", b("Slice", b("Exp", b.input("x", [4, 5])), *(b.const(np.array(bound)) for bound in bounds)))
    result, _ = check(b.model(y), "drop_gathers")
    assert ops(result, "Slice") == cut


def test_a_slice_of_an_open_axis_stays(build, check, ops):
    b = build()
    begin, end = (b.const(np.array([bound])) for bound in (0, 4))
    result, _ = check(b.model(b("Neg", b("Slice", b.input("x", ["tokens", 5]), begin, end))), "drop_gathers")
    assert ops(result, "Slice") == 1
