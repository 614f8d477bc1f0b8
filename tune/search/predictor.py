"""Latency of an architecture that was never built: the sum of its fused kernels, each measured once per shape.

latency ≈ a + b · Σ calls · cost(kernel). a and b are fitted to the architectures measured so far: a is what a run costs
besides kernels, b what sharing the caches costs them. Before anything is measured a = 0 and b = 1, and later ones have
to outweigh that as if it were a measurement too: a few architectures of about the same latency cannot tell a from b.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compile.program import Call, Program
from tune.search.probe import kernel_key


def kernels(program: Program) -> dict[str, Call]:
    """One call of each kernel and number of rows, by its key."""
    return {kernel_key(call): call for call in reversed(program.calls)}


def kernel_sum(program: Program, costs: Mapping[str, float]) -> float:
    """ms of all calls; every kernel of the program must be in `costs` (ms a call)."""
    return sum(costs[kernel_key(call)] for call in program.calls)


@dataclass(frozen=True)
class Calibration:
    """a (ms) and b."""

    overhead: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(cls, sums: Sequence[float], measured: Sequence[float]) -> Calibration:
        """Non-negative least squares of the relative errors."""
        from scipy.optimize import nnls

        if not measured:
            return cls()
        latency, kernels = np.asarray(measured), np.asarray(sums)
        features = np.stack(
            [1 / latency, kernels / latency], axis=1
        )  # of each architecture: a/latency + b·sum/latency = 1
        before = [[1 / latency.mean(), 0.0], [0.0, 1.0]]  # a = 0 and b = 1
        (overhead, scale), _ = nnls(np.vstack([features, before]), [*np.ones(len(latency)), 0.0, 1.0])
        return cls(float(overhead), float(scale))

    def __call__(self, kernel_sum: float) -> float:
        return self.overhead + self.scale * kernel_sum


def held_out(sums: Sequence[float], measured: Sequence[float]) -> list[float]:
    """A prediction for each architecture by a calibration that has not seen it."""
    return [
        Calibration.fit([*sums[:i], *sums[i + 1 :]], [*measured[:i], *measured[i + 1 :]])(sums[i])
        for i in range(len(sums))
    ]


@dataclass(frozen=True)
class Accuracy:
    """mape: mean absolute error, % of the measured; within_10: share of them less than 10 % off; tau: Kendall's."""

    count: int
    mape: float
    within_10: float
    tau: float

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Accuracy:
        from scipy.stats import kendalltau

        errors = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
        tau = float(kendalltau(predicted, measured).statistic)
        return cls(len(errors), 100 * float(errors.mean()), float((errors < 0.1).mean()), tau)

    def __str__(self) -> str:
        return (
            f"MAPE {self.mape:.1f} %, {self.within_10:.0%} within ±10 %, Kendall's τ {self.tau:.2f}, "
            f"{self.count} architectures"
        )
