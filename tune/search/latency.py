"""Latency that can be compared over hours: each candidate in turns with one reference artifact.

A machine's clock and its other work change slowly beside a few milliseconds. So a candidate and the reference are run
in turns, and the candidate's latency is the median ratio of a turn times what the reference took when the study began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from compile.running.runners.base import Runner
from compile.running.runners.measurement import Measurement

TURNS = 11
RUNS = 5  # a turn


@dataclass(frozen=True)
class Beside:
    """One artifact's medians in each turn, the reference's beside them (ms), and on what they were taken."""

    candidate_ms: tuple[float, ...]
    reference_ms: tuple[float, ...]
    device: str
    threads: int
    toolchain: str
    estimate: bool

    @property
    def ratio(self) -> float:
        return median(c / r for c, r in zip(self.candidate_ms, self.reference_ms, strict=True))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Beside:
        lists = {name: tuple(data[name]) for name in ("candidate_ms", "reference_ms")}
        return cls(**{**data, **lists})


def measure_beside(runner: Runner, artifact: Path, reference: Path, threads: int, turns: int = TURNS) -> Beside:
    """Raises RunnerError or RunFailed."""
    ours: list[Measurement] = []
    theirs: list[Measurement] = []
    for turn in range(turns):
        pair = [(ours, artifact), (theirs, reference)]
        for taken, folder in pair if turn % 2 else reversed(pair):
            taken.append(runner.measure(folder, threads=threads, runs=RUNS))
    first = ours[0]
    return Beside(
        tuple(m.median_ms for m in ours),
        tuple(m.median_ms for m in theirs),
        first.device,
        threads,
        first.toolchain,
        first.estimate,
    )
