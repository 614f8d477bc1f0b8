"""Hypervolume, calibration and accuracy against outside referees."""

import numpy as np
import optuna
import pytest

from tune.search.hypervolume import dominates, history, hypervolume
from tune.search.noise import Noise
from tune.search.predictor import Accuracy, Calibration, held_out
from tune.search.study import front


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_hypervolume_is_optunas(dimensions):
    from optuna._hypervolume import compute_hypervolume

    rng = np.random.default_rng(dimensions)
    for count in (1, 2, 7, 20):
        points = rng.integers(0, 12, (count, dimensions)) / 10  # ties, and points outside the box
        inside = points[(points < 1).all(1)]
        expected = compute_hypervolume(inside, np.ones(dimensions)) if len(inside) else 0.0
        assert hypervolume(points.tolist(), [1.0] * dimensions) == pytest.approx(expected)


def test_history_never_falls_and_ignores_the_scale_of_an_objective():
    points = np.random.default_rng(0).random((15, 3))
    values = history(points.tolist())
    assert (np.diff(values) > -1e-12).all()
    assert history((points * [1, 1000, 1e-3]).tolist()) == pytest.approx(values)


def test_history_is_a_share_of_the_box_from_best_to_worst():
    points = [(3.0, 5.0), (5.0, 3.0), (4.0, 3.5), (3.0, 3.0)]  # (0, 1), (1, 0), (1/2, 1/4) and (0, 0) of it
    assert history(points) == pytest.approx([0.0, 0.0, 0.375, 1.0])
    assert history([(2.0, 7.0), (4.0, 7.0)]) == pytest.approx([1.0, 1.0])  # one objective tells nothing


def test_a_point_does_not_dominate_its_equal():
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((1, 2), (2, 1))


def test_calibration_finds_overhead_and_scale():
    sums = np.linspace(2, 9, 400)
    fitted = Calibration.fit(list(sums), list(0.3 + 1.07 * sums))
    assert (fitted.overhead, fitted.scale) == pytest.approx((0.3, 1.07), rel=0.03)


def test_calibration_begins_with_the_plain_sum():
    assert Calibration.fit([], []) == Calibration(0.0, 1.0)


def test_architectures_of_one_latency_do_not_make_an_overhead_of_their_kernels():
    sums, measured = [4.7, 4.4, 4.3, 4.2, 4.6], [4.6, 4.5, 4.5, 4.3, 4.3]  # sums say nothing about the differences
    assert Calibration.fit(sums, measured)(2.9) == pytest.approx(2.9, rel=0.1)


def test_a_held_out_prediction_does_not_see_its_own_measurement():
    sums = list(np.linspace(2, 9, 10))
    measured = [1.1 * s for s in sums]
    before = held_out(sums, measured)
    wild = [*measured[:4], 99.0, *measured[5:]]
    after = held_out(sums, wild)
    assert after[4] == pytest.approx(before[4])
    assert after[3] != pytest.approx(before[3])


def test_accuracy_by_hand():
    a = Accuracy.of([1.0, 2.2, 2.9, 5.0], [1.0, 2.0, 3.0, 4.0])
    assert a.mape == pytest.approx(100 * (0 + 0.1 + 1 / 30 + 0.25) / 4)
    assert a.within_10 == pytest.approx(0.5, abs=0.26)  # 2.2 / 2.0 − 1 may round to either side of 0.1
    assert a.tau == pytest.approx(1.0)


def test_the_error_of_a_mean_is_students():
    from scipy import stats

    groups = [[1.0, 1.2, 0.9], [3.0, 3.1, 3.3], [7.0]]
    noise = Noise.of(groups)
    assert noise.freedom == 4
    assert noise.deviation == pytest.approx(np.sqrt((np.var(groups[0], ddof=1) + np.var(groups[1], ddof=1)) / 2))
    low, high = stats.t.interval(0.95, 4, 0.0, noise.deviation / np.sqrt(3))
    assert noise.error(3) == pytest.approx(high)
    assert low == pytest.approx(-high)
    same = Noise.of([groups[0], groups[1]])  # the margin at which the one-sided test of equal variances gives 5 %
    shifted = [
        np.asarray(groups[0]) - np.mean(groups[0]),
        np.asarray(groups[1]) - np.mean(groups[1]) + same.margin(3, 3),
    ]
    assert stats.ttest_ind(shifted[1], shifted[0], alternative="greater").pvalue == pytest.approx(0.05)
    assert Noise.of([[1.0], [2.0]]).error(1) == Noise.of([[1.0], [2.0]]).margin(1, 1) == 0


def test_what_is_better_by_less_than_the_seeds_explain_does_not_dominate():
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for quality in (1.0, 1.05, 2.0):
        study.add_trial(optuna.trial.create_trial(values=(quality, 1.0, 1.0)))
    assert [t.number for t in front(study)] == [2]
    study.set_user_attr("quality-again:0", [1.1, 0.9])
    study.set_user_attr("quality-again:1", [1.15, 0.95])
    assert [t.number for t in front(study)] == [2]
    study.set_user_attr("quality-again:2", [0.6, 0.55])  # one lucky seed: it is no better than the others
    assert [t.number for t in front(study)] == [0, 1, 2]
