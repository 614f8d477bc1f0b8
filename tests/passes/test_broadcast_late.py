"""broadcast_late: a mask is widened by its reader alone."""

import numpy as np
import pytest


def widened(b, how, mask):
    """The mask [1, 1, 1, 4] as [1, 1, 4, 4]."""
    if how == "Expand":
        return b("Expand", mask, b.const(np.array([1, 1, 4, 4])))
    return b("And", b.const(np.ones((1, 1, 4, 1), bool)), mask)


def scores(b, mask):
    choice = b("Where", mask, b.const(0.0), b.const(-1e9))
    return b("Softmax", b("Add", b.input("x", [1, 2, 4, 4]), choice))


def as_mask(b):
    return b("Cast", b.input("mask", [1, 1, 1, 4], 7), to=9)


@pytest.mark.parametrize("how", ["Expand", "And"])
def test_what_the_reader_widens_anyway_is_not_widened_before(build, check, ops, how):
    b = build()
    result, _ = check(b.model(scores(b, widened(b, how, as_mask(b)))), "broadcast_late")
    assert ops(result, how) == 0


@pytest.mark.parametrize("how", ["Expand", "And"])
def test_it_stays_where_another_reader_needs_the_whole(build, check, ops, how):
    b = build()
    mask = widened(b, how, as_mask(b))
    total = b("ReduceSum", b("Cast", mask, to=1), keepdims=0)
    result, _ = check(b.model(scores(b, mask), total), "broadcast_late")
    assert ops(result, how) == 1


def test_it_stays_where_it_is_an_output(build, check, ops):
    b = build()
    mask = widened(b, "Expand", as_mask(b))
    result, _ = check(b.model(scores(b, mask), mask), "broadcast_late")
    assert ops(result, "Expand") == 1


def test_it_stays_where_the_last_reader_has_no_larger_operand(build, check, ops):
    b = build()
    choice = b("Where", widened(b, "Expand", as_mask(b)), b.const(0.0), b.const(-1e9))
    result, _ = check(b.model(b("Add", choice, b.normal(4, 1))), "broadcast_late")
    assert ops(result, "Expand") == 1


def test_a_mask_that_is_not_all_true_is_kept(build, check, ops):
    b = build()
    causal = b.const(np.tril(np.ones((1, 1, 4, 4), bool)))
    result, _ = check(b.model(scores(b, b("And", causal, as_mask(b)))), "broadcast_late")
    assert ops(result, "And") == 1
