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

LISTS = ("samples_ms", "cores", "cpu_ms")
# The share of a run's time that its threads must have had of the processor for the time to be the library's own. Where
# there are several threads, one that waits for the others may sleep.
STEADY = 0.95
STEADY_THREADS = 0.75


@dataclass(frozen=True)
class Measurement:
    """All samples of one artifact's latency in ms, and what they were taken on.

    device: the CPU's or the phone's name; cores: those that the process might use; governor: the frequency governor,
    "" where there is none to be read; temperature: °C before the first sample, None where no sensor is;
    toolchain: `toolchain_hash` of the artifact; estimate: whether the samples were computed and not timed;
    cpu_ms: the processor's time that all threads had in each sample, () where the device does not tell.
    """

    samples_ms: tuple[float, ...]
    device: str
    cores: tuple[int, ...]
    threads: int
    governor: str
    temperature: float | None
    toolchain: str
    estimate: bool = False
    cpu_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise CompileError(f"{self.device} gave no samples: run it again")

    @property
    def median_ms(self) -> float:
        return median(self.samples_ms)

    @property
    def steady_ms(self) -> tuple[float, ...]:
        """Samples in which no other program took the processor away; all of them where the device does not tell."""
        if not self.cpu_ms:
            return self.samples_ms
        least = STEADY if self.threads == 1 else STEADY_THREADS
        both = zip(self.samples_ms, self.cpu_ms, strict=True)
        return tuple(wall for wall, cpu in both if cpu >= least * self.threads * wall)

    @property
    def spread_ms(self) -> float:
        """The interquartile range; 0 of a single sample."""
        if len(self.samples_ms) < 2:
            return 0.0
        low, _, high = quantiles(self.samples_ms, n=4, method="inclusive")
        return high - low

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {name: list(getattr(self, name)) for name in LISTS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Raises CompileError if `data` is not what `to_dict` made."""
        try:
            return cls(**{**data, **{name: tuple(data[name]) for name in LISTS if name in data}})
        except (KeyError, TypeError) as error:
            raise CompileError(f"not a measurement: {error}") from error

    def __str__(self) -> str:
        source = "ESTIMATED, not measured" if self.estimate else f"median of {len(self.samples_ms)}"
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.median_ms:.3f} ms ± {self.spread_ms:.3f} ({source}, {threads}, {self.device})"


def toolchain_hash(facts: LibraryFacts) -> str:
    """Twelve hex digits of what made an artifact: package versions and linker."""
    made_by = {"versions": facts.versions, "linker": facts.linker}
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:12]
