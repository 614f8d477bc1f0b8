"""GLUE's metrics, by their names; shares from 0 to 1 and correlations from −1 to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def compute(names: Sequence[str], labels: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Each metric of `names`; where a correlation is undefined because one side is constant, it is 0."""
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    expected, got = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    constant = np.ptp(expected) == 0 or np.ptp(got) == 0
    functions = {
        "accuracy": lambda: accuracy_score(expected, got),
        "f1": lambda: f1_score(expected, got, zero_division=0.0),
        "matthews": lambda: matthews_corrcoef(expected, got),
        "pearson": lambda: 0.0 if constant else pearsonr(expected, got).statistic,
        "spearman": lambda: 0.0 if constant else spearmanr(expected, got).statistic,
    }
    values = {name: float(functions[name]()) for name in names}
    return {name: value if math.isfinite(value) else 0.0 for name, value in values.items()}
