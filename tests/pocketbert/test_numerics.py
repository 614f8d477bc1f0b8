"""The yardstick: every fault that a comparison may hide behind NaN, an infinity, a range of nothing or a shape."""

import numpy as np
import pytest

from pocketbert.numerics import random_input, relative_error

Y = np.arange(4, dtype=np.float32) - 1


def at(index: int, value: float) -> np.ndarray:
    changed = Y.copy()
    changed[index] = value
    return changed


def error(got: np.ndarray, want: np.ndarray) -> float:
    return relative_error({"y": got}, {"y": want})


def test_almost_equal_scores_are_compared_as_numbers_of_their_size() -> None:
    scores = np.array([[0.02, 0.02 + 1e-5]], np.float32)
    assert 0 < error(np.nextafter(scores, np.float32(1)), scores) < 1e-6
    assert error(scores + np.float32(1e-5), scores) > 1e-4
    same = np.full(2, 3, np.float32)
    assert error(same, same) == 0
    assert error(same + 1, same) == pytest.approx(1 / 3)


def test_error_is_a_share_of_the_range() -> None:
    assert error(Y + 0.3, Y) == pytest.approx(0.1)
    assert error(1000 * Y + 300, 1000 * Y) == pytest.approx(0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_on_one_side_is_an_infinite_error(value: float) -> None:
    assert error(at(2, value), Y) == np.inf
    assert error(Y, at(2, value)) == np.inf
    assert error(np.full(4, value), Y) == np.inf
    assert error(Y, np.full(4, value, np.float32)) == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_on_both_sides_agrees_and_the_rest_is_still_compared(value: float) -> None:
    assert error(at(2, value), at(2, value)) == 0
    assert error(np.full(4, value), np.full(4, value)) == 0
    assert error(at(2, value) + 0.1, at(2, value)) == pytest.approx(0.1 / 3)
    assert error(at(1, value), at(2, value)) == np.inf


def test_infinities_of_other_signs_and_nan_differ() -> None:
    values = (np.nan, np.inf, -np.inf)
    assert all(error(at(0, a), at(0, b)) == np.inf for a in values for b in values if a is not b)


def test_one_bad_output_of_several_is_enough() -> None:
    """In any order: max(0, nan) is 0."""
    good, bad = {"a": Y, "b": Y}, {"a": Y, "b": at(0, np.nan)}
    assert relative_error(bad, good) == relative_error(dict(reversed(bad.items())), good) == np.inf
    assert relative_error({"a": Y, "b": Y + 3}, good) == relative_error({"b": Y + 3, "a": Y}, good) == 1


def test_zero_throughout_is_compared_as_it_is() -> None:
    assert error(Y * 0, Y * 0) == 0
    assert error(Y * 0 + 0.5, Y * 0) == 0.5


def test_numbers_at_the_ends_of_float64_overflow_to_no_nan() -> None:
    most = np.finfo(np.float64).max
    assert error(np.array([most, -most]), np.array([most, -most])) == 0
    assert error(np.array([-most, most]), np.array([most, -most])) == 1
    assert error(np.array([most]), np.array([5e-324])) == np.inf


def test_names_and_shapes_must_be_the_same() -> None:
    for other in ({}, {"z": Y}, {"y": Y, "z": Y}):
        with pytest.raises(ValueError, match="outputs"):
            relative_error(other, {"y": Y})
    for shape in ((1, 4), (2, 2), (3,), ()):
        with pytest.raises(ValueError, match="'y'"):
            error(np.zeros(shape), Y)
    assert error(np.zeros((0, 3)), np.zeros((0, 3))) == 0


def test_random_inputs_are_valid() -> None:
    rng = np.random.default_rng(0)
    ids = random_input(rng, "input_ids", (2, 500), np.int64, (3, 7))
    assert set(np.unique(ids)) == {3, 4, 5, 6}
    for name, dtype in (("attention_mask", np.int64), ("kept", np.bool_), ("mask", np.float32)):
        mask = random_input(rng, name, (50, 12), dtype, None)
        assert mask.dtype == dtype
        assert set(np.unique(mask)) == {0, 1}
        assert np.all(mask[:, 0] == 1)
        assert np.all(np.diff(mask.astype(int)) <= 0)
        assert len(set(mask.sum(1))) > 3, "lengths differ"
    assert random_input(rng, "x", (3, 4), np.float32, None).std() > 0.3
    assert random_input(rng, "flag", (), np.int32, None) == 1


def test_a_random_mask_keeps_a_third_at_least_on_its_last_axis() -> None:
    rng = np.random.default_rng(1)
    mask = random_input(rng, "Attention_Mask", (20, 5, 3, 12), np.float32, None)
    assert mask.shape == (20, 5, 3, 12)
    assert (np.diff(mask) <= 0).all()
    lengths = mask.sum(-1)
    assert set(lengths.ravel()) == set(range(4, 13))
    assert (lengths.std(axis=(1, 2)) > 0).all(), "every row has a length of its own"
    assert random_input(rng, "mask", (7, 1), np.int64, None).tolist() == [[1]] * 7
