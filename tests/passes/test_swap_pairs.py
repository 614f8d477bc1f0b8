"""swap_pairs: rotary positions that rotate neighbours."""

import numpy as np
import pytest


def every_second(b, x, first, step=2, axis=3):
    end = np.iinfo(np.int64).max
    return b("Slice", x, *(b.const(np.array([n])) for n in (first, end, axis, step)))


def rotated(b, x, odd=1, even=0, negate=True, axis=-1, shape=(1, 2, 4, 6)):
    first = every_second(b, x, odd)
    parts = [b("Neg", first) if negate else first, every_second(b, x, even)]
    parts = [b("Unsqueeze", part, b.const(np.array([axis]))) for part in parts]
    return b("Reshape", b("Concat", *parts, axis=axis), b.const(np.array(shape)))


def test_neighbours_are_looked_up(build, check, ops, applied):
    b = build()
    x = b.input("x", [1, 2, 4, 6])
    y = b("Add", b("Mul", x, b.normal(1, 1, 4, 6)), b("Mul", rotated(b, x), b.normal(1, 1, 4, 6)))
    result, report = check(b.model(y), "swap_pairs")
    assert applied(report, "swap_pairs") == 1
    assert ops(result, "Gather") == 1
    assert ops(result, "Slice", "Concat", "Neg") == 0


@pytest.mark.parametrize(
    "different",
    [{"odd": 0, "even": 1}, {"negate": False}, {"axis": -2}, {"shape": (1, 2, 6, 4)}],
    ids=["order", "sign", "axis", "shape"],
)
def test_what_is_no_rotation_stays(build, check, applied, different):
    b = build()
    y = rotated(b, b.input("x", [1, 2, 4, 6]), **different)
    _, report = check(b.model(b("Exp", y)), "swap_pairs")
    assert applied(report, "swap_pairs") == 0


def test_parts_of_two_tensors_stay(build, check, applied):
    b = build()
    x, other = b.input("x", [1, 2, 4, 6]), b.input("other", [1, 2, 4, 6])
    parts = [b("Neg", every_second(b, x, 1)), every_second(b, other, 0)]
    parts = [b("Unsqueeze", part, b.const(np.array([-1]))) for part in parts]
    y = b("Reshape", b("Concat", *parts, axis=-1), b.const(np.array([1, 2, 4, 6])))
    _, report = check(b.model(b("Exp", y)), "swap_pairs")
    assert applied(report, "swap_pairs") == 0
