"""The yardstick of a library's verification."""

import numpy as np

from compile.running.verify import relative_error


def test_almost_equal_scores_are_compared_as_numbers_of_their_size() -> None:
    scores = np.array([[0.02, 0.02 + 1e-5]], np.float32)
    assert 0 < relative_error({"scores": np.nextafter(scores, np.float32(1))}, {"scores": scores}) < 1e-6
    assert relative_error({"scores": scores + np.float32(1e-5)}, {"scores": scores}) > 1e-4


def test_what_is_not_finite_is_wrong() -> None:
    y = np.arange(4, dtype=np.float32)
    assert relative_error({"y": np.where(y == 2, np.nan, y)}, {"y": y}) == np.inf
    assert relative_error({"y": y * 0}, {"y": y * 0}) == 0
