"""How much of a quality is its seed's doing: repeated measurements, their error, and what is surely better."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean
from typing import Any

from optuna.trial import FrozenTrial

CONFIDENCE = 0.95


def qualities(trial: FrozenTrial, attributes: Mapping[str, Any]) -> list[float]:
    """By every seed that it was measured with; the search's own comes first."""
    return [float(trial.values[0]), *attributes.get(f"quality-again:{trial.number}", ())]


@dataclass(frozen=True)
class Noise:
    """deviation: of a quality between seeds, pooled over all architectures that have several; freedom: its degrees."""

    deviation: float = 0.0
    freedom: int = 0

    @classmethod
    def of(cls, groups: Collection[Sequence[float]]) -> Noise:
        freedom = sum(len(group) - 1 for group in groups)
        if not freedom:
            return cls()
        squares = sum((value - mean(group)) ** 2 for group in groups for value in group)
        return cls(sqrt(squares / freedom), freedom)

    def error(self, count: int) -> float:
        """Half the width of the 95 % interval of a mean of `count`; 0 where nothing was repeated."""
        return self._quantile((1 + CONFIDENCE) / 2) * self.deviation / sqrt(count)

    def margin(self, first: int, second: int) -> float:
        """By which a mean must exceed another (of so many each) to be better with 95 % confidence."""
        return self._quantile(CONFIDENCE) * self.deviation * sqrt(1 / first + 1 / second)

    def _quantile(self, share: float) -> float:
        from scipy.stats import t

        return float(t.ppf(share, self.freedom)) if self.freedom else 0.0
