"""Which layers stay float32, and why."""

from fnmatch import fnmatchcase

import numpy as np

from passes import int8
from passes.errors import PassError
from passes.options import Options
from passes.report import Refusals


class Keep:
    """The caller's patterns and bound; collects the reasons."""

    def __init__(self, options: Options) -> None:
        self.patterns, self.min_snr = options.keep_float, options.min_snr
        self.refusals = Refusals()

    def asked(self, *names: str) -> str:
        """A reason where the caller's patterns match one of the names."""
        match = next((p for p in self.patterns for name in names if fnmatchcase(name, p)), None)
        return f"--keep-float {match}" if match else ""

    def unusable(self, name: str, values: np.ndarray, axis: int) -> str:
        """A reason where the matrix cannot be int8; PassError where it is not finite: that is broken in float32 too."""
        if not np.isfinite(values).all():
            raise PassError(
                f"{name}: weights with NaN or infinity cannot be int8: mend the model, or --keep-float '{name}'"
            )
        return int8.unusable(values, axis)

    def too_noisy(self, snr: float) -> str:
        """A reason where the ratio, in decibels, is below the bound."""
        return "" if snr >= self.min_snr else f"signal-to-noise ratio below {self.min_snr:g} dB"


def check_patterns(patterns: tuple[str, ...], names: list[str]) -> None:
    """PassError for a pattern that no layer has: a misspelt one must not quantise what should stay."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:3]) or "none in this model"
            raise PassError(
                f"--keep-float {pattern}: no layer has such a name; there are: {some}{', …' * (len(names) > 3)}"
            )
