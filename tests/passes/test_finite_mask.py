"""finite_mask: which constants are masks, and which guards against NaN may go."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from passes.verify import run_model
from pocketbert.numerics import relative_error
from tests.support.attention import LENGTH, SIZE, additive_mask, attention

LOW = float(np.finfo(np.float32).min)


def masked(b, constant, through=()):
    """Softmax of scores with a constant added, by way of some operators."""
    mask = b.const(np.full((1, 4), constant))
    for op in through:
        mask = b(op, mask, b.const(np.array([0]))) if op == "Unsqueeze" else b(op, mask)
    return b("Softmax", b("Add", b.input("x", [3, 4]), mask))


@pytest.mark.parametrize(("low", "raised"), [(-np.inf, True), (LOW, True), (-1e9, False), (-1e4, False), (0.0, False)])
def test_only_what_is_below_the_mask_value_is_raised(build, check, applied, low, raised):
    b = build()
    constant = np.array([[0.0, low, 0.0, 0.0]])
    y = b("Softmax", b("Add", b.input("x", [3, 4]), b.const(constant)))
    result, report = check(b.model(y), "finite_mask")
    assert applied(report, "finite_mask") == raised
    values = [numpy_helper.to_array(t) for t in result.graph.initializer]
    assert min(v.min() for v in values) == (-1e9 if raised else np.float32(low))


@pytest.mark.parametrize("reader", ["Relu", "Exp"])
def test_a_constant_that_something_else_reads_too_stays(build, check, applied, reader):
    b = build()
    mask = b.const(np.full((3, 4), -1e12))
    y = b("Softmax", b("Add", b.input("x", [3, 4]), mask))
    _, report = check(b.model(y, b(reader, mask)), "finite_mask")
    assert applied(report, "finite_mask") == 0


def test_a_large_negative_number_that_reaches_no_softmax_stays(build, check, applied):
    b = build()
    _, report = check(b.model(b("Mul", b.input("x", [3, 4]), b.const(np.full(4, -1e12)))), "finite_mask")
    assert applied(report, "finite_mask") == 0


def test_large_negative_constants_that_are_no_mask_stay(build, check):
    b = build()
    y = b("Relu", b("Add", b.input("x", [3, 4]), b.const(np.full(4, -1e12))))
    _, report = check(b.model(y, b("Softmax", y)), "finite_mask")
    assert report.passes[0].applied == 0


def test_a_nan_guard_on_an_infinite_mask_given_at_run_time_of_no_softmax_stays(build, check, ops):
    b = build()
    x = b("Log", b.input("x", [3, 4]))
    result, _ = check(b.model(b("Where", b("IsNaN", x), b.const(0.0), x)), "finite_mask")
    assert ops(result, "IsNaN") == 1


def guarded(b, other="same", replacement=0.0, test="IsNaN", source="Softmax", added=-np.inf):
    x = b.input("x", [3, 4])
    p = b(source, b("Add", x, b.const(np.array([0.0, added, 0.0, 0.0]))))
    tested = p if other == "same" else b("Softmax", x)
    return b("Where", b(test, tested), b.const(replacement), p)


@pytest.mark.parametrize(
    "case",
    [
        {"other": "another"},
        {"replacement": 1.0},
        {"test": "IsInf"},
        {"source": "Relu"},
        {"added": np.inf},
        {"added": np.nan},
    ],
)
def test_what_is_no_guard_of_a_softmax_stays(build, ops, case):
    import passes

    b = build()
    result, _ = passes.run(b.model(guarded(b, **case)), only=["finite_mask"], verify=False)
    assert ops(result, "Where") == 1


def test_a_guard_of_a_softmax_goes(build, check, ops):
    b = build()
    result, _ = check(b.model(guarded(b)), "finite_mask")
    assert ops(result, "Where", "IsNaN") == 0


@pytest.mark.parametrize("low", [-np.inf, float(np.finfo(np.float32).min)])
def test_masks_become_finite_and_nan_guards_go(build, check, ops, low):
    b = build()
    x = b.input("x", [2, LENGTH, SIZE])
    result, report = check(b.model(attention(b, x, scale="both", mask=additive_mask(b, low))), "finite_mask")
    floats = [numpy_helper.to_array(t) for t in result.graph.initializer if t.data_type == 1]
    assert min(values.min() for values in floats) == -1e9
    assert report.passes[0].counts == {"constants": 1, "nan_guards": 1}
    assert ops(result, "IsNaN") == 0


@pytest.mark.parametrize(("mask", "stays"), [([2, 1, 6], False), ([2, 6, 6], True)])
def test_what_a_query_without_keys_gets_stays_where_each_has_a_mask_of_its_own(mask, stays, build, ops):
    """Local attention over padding: windows of padding alone. A mask that all share hides all keys of no text."""
    import passes

    b = build()
    seen = b("Expand", b.input("seen", mask, TensorProto.BOOL), b.const(np.array([2, 6, 6])))
    scores = b("Add", b.input("x", [2, 6, 6]), b("Where", seen, b.const(np.zeros(1)), b.const(np.full(1, -np.inf))))
    p = b("Softmax", scores)
    model = b.model(b("Where", b("IsNaN", p), b.const(0.0), p))
    result, _ = passes.run(model, only=["finite_mask"], verify=False)
    assert ops(result, "IsNaN") == stays
    x = np.random.default_rng(0).standard_normal((2, 6, 6)).astype(np.float32)
    keys = np.arange(6) < np.array([[[6]], [[2]]])
    near = abs(np.arange(6)[:, None] - np.arange(6)) <= 1
    feeds = [{"x": x, "seen": keys & near if stays else keys}]
    before, after = (run_model(one, feeds)[0] for one in (model, result))
    assert relative_error(before, after) < 1e-6
