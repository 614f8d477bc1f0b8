"""Latency that can be compared over hours: each candidate in turns with one reference artifact.

A machine's clock changes slowly beside a few milliseconds. So a candidate and the reference are run in turns, and the
candidate's latency is the median ratio of a turn times what the reference took when the study began.

Another program does the two no equal harm: a short run fits into a slice of the scheduler, a long reference does not.
So a turn counts only if both had the processor to themselves in some of their runs, by its own clock, and the
reference took about what it took at first. Else the turn is taken again, later.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from compile.running.runners.base import Runner
from compile.running.runners.measurement import Measurement
from tune.errors import TuneError

TURNS = 11
RUNS = 5  # a turn
VOID_TURNS = 3 * TURNS  # disturbed ones, after which the machine is too busy
PAUSE = 0.05  # seconds after a disturbed turn, and twice as long after each further one in a row, up to
LONGEST_PAUSE = 2.0
SAME_SPEED = 1.5  # × or ÷ what the reference took at first


class Unmeasurable(TuneError):
    """The machine's fault and not the candidate's: another time it may work."""


@dataclass(frozen=True)
class Beside:
    """One artifact's medians in each turn, the reference's beside them (ms), and on what they were taken.

    void: turns that were disturbed, and taken again.
    """

    candidate_ms: tuple[float, ...]
    reference_ms: tuple[float, ...]
    device: str
    threads: int
    toolchain: str
    estimate: bool
    void: int = 0

    @property
    def ratio(self) -> float:
        return median(c / r for c, r in zip(self.candidate_ms, self.reference_ms, strict=True))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Beside:
        lists = {name: tuple(data[name]) for name in ("candidate_ms", "reference_ms")}
        return cls(**{**data, **lists})


def measure_beside(
    runner: Runner, artifact: Path, reference: Path, threads: int, turns: int = TURNS, usual_ms: float | None = None
) -> Beside:
    """usual_ms: what the reference took when the study began. Raises RunnerError, RunFailed, or Unmeasurable."""
    pairs: list[tuple[float, float]] = []
    void = in_a_row = 0
    while len(pairs) < turns:
        pair = [artifact, reference]
        order = 1 if (len(pairs) + void) % 2 else -1
        last, beside = [runner.measure(folder, threads=threads, runs=RUNS) for folder in pair[::order]][::order]
        reason = disturbance(last, beside, usual_ms)
        if reason is None:
            pairs.append((median(last.steady_ms), median(beside.steady_ms)))
            in_a_row = 0
            continue
        void, in_a_row = void + 1, in_a_row + 1
        if void > VOID_TURNS:
            raise Unmeasurable(f"{void} turns were disturbed, {len(pairs)} of {turns} were not; the last: {reason}")
        time.sleep(min(LONGEST_PAUSE, PAUSE * 2 ** (in_a_row - 1)))
    ours, theirs = zip(*pairs, strict=True)
    return Beside(ours, theirs, last.device, threads, last.toolchain, last.estimate, void)


def disturbance(candidate: Measurement, reference: Measurement, usual_ms: float | None) -> str | None:
    """Why a turn does not count, if it does not."""
    if not candidate.steady_ms or not reference.steady_ms:
        return "another program had the processor in every run"
    ms = median(reference.steady_ms)
    if usual_ms and not usual_ms / SAME_SPEED <= ms <= usual_ms * SAME_SPEED:
        return f"the reference took {ms:.2f} ms, {usual_ms:.2f} when the study began"
    return None
