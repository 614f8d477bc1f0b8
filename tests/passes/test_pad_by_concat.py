"""pad_by_concat: padding along one axis is a concatenation."""

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("pads", "more", "constants"),
    [
        ([0, 1, 0, 0, 0, 0], (), 1),
        ([0, 2, 0, 0, 1, 0], (np.float32(-3.0),), 2),
        ([1, 3], (np.float32(0.0), np.array([-1])), 2),
    ],
)
def test_padding_along_one_axis(build, check, ops, pads, more, constants):
    b = build()
    y = b("Pad", b.input("x", [2, 4, 5]), b.const(np.array(pads)), *map(b.const, more))
    result, _ = check(b.model(b("Exp", y)), "pad_by_concat")
    (concat,) = (node for node in result.graph.node if node.op_type == "Concat")
    assert len(concat.input) == constants + 1
    assert ops(result, "Pad") == 0


@pytest.mark.parametrize(
    ("pads", "attributes"),
    [
        ([1, 1, 0, 0, 0, 0], {}),  # two axes
        ([0, -1, 0, 0, 1, 0], {}),  # cuts
        ([0, 1, 0, 0, 1, 0], {"mode": "edge"}),
        ([0, 0, 0, 0, 0, 0], {}),
        ([0, 1 << 14, 0, 0, 0, 0], {}),  # a large constant
    ],
)
def test_what_is_more_than_a_concatenation_stays(build, check, ops, pads, attributes):
    b = build()
    y = b("Pad", b.input("x", [2, 4, 5]), b.const(np.array(pads)), **attributes)
    result, _ = check(b.model(b("Exp", y)), "pad_by_concat")
    assert ops(result, "Pad") == 1


def test_an_amount_or_a_value_that_a_caller_may_change_stays(build, check, ops):
    b = build()
    pads = b.const(np.array([0, 1, 0, 0, 0, 0]))
    y = b("Pad", b.input("x", [2, 4, 5]), pads, b.input("value", []))
    result, _ = check(b.model(b("Exp", y)), "pad_by_concat")
    assert ops(result, "Pad") == 1
