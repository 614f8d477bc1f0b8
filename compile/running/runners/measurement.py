"""`Measurement`: what a runner found out about one artifact, and on what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from compile.artifact.manifest import LibraryFacts
from compile.errors import CompileError


@dataclass(frozen=True)
class Measurement:
    """All samples of one artifact's latency in ms, and what they were taken on.

    device: the CPU's or the phone's name; cores: those that the process might use; governor: the frequency governor,
    "" where there is none to be read; temperature: °C before the first sample, None where no sensor is;
    toolchain: `toolchain_hash` of the artifact; estimate: whether the samples were computed and not timed.
    """

    samples_ms: tuple[float, ...]
    device: str
    cores: tuple[int, ...]
    threads: int
    governor: str
    temperature: float | None
    toolchain: str
    estimate: bool = False

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise CompileError(f"{self.device} gave no samples: run it again")

    @property
    def median_ms(self) -> float:
        return median(self.samples_ms)

    @property
    def spread_ms(self) -> float:
        """The interquartile range; 0 of a single sample."""
        if len(self.samples_ms) < 2:
            return 0.0
        low, _, high = quantiles(self.samples_ms, n=4, method="inclusive")
        return high - low

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"samples_ms": list(self.samples_ms), "cores": list(self.cores)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Raises CompileError if `data` is not what `to_dict` made."""
        try:
            return cls(**{**data, "samples_ms": tuple(data["samples_ms"]), "cores": tuple(data["cores"])})
        except (KeyError, TypeError) as error:
            raise CompileError(f"not a measurement: {error}") from error

    def __str__(self) -> str:
        taken = "ESTIMATED, not measured" if self.estimate else f"median of {len(self.samples_ms)}"
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.median_ms:.3f} ms ± {self.spread_ms:.3f} ({taken}, {threads}, {self.device})"


def toolchain_hash(facts: LibraryFacts) -> str:
    """Twelve hex digits of what made an artifact: package versions and linker."""
    made_by = {"versions": facts.versions, "linker": facts.linker}
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:12]
