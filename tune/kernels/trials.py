"""Trials: building a candidate, running it, and judging what came back. Whatever it does, a candidate gets a record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvm.support.popen_pool import PopenPoolExecutor

from compile.databases import Record
from compile.kernels.tiles import TileConfig
from compile.running.runners.base import RunFailed, Runner
from compile.running.runners.measurement import Measurement
from compile.targets import Target
from pocketbert.temporary import TemporaryFolder
from tune.kernels.library import TOLERANCE, build_candidate, compile_harness, describe, error_of
from tune.kernels.tasks import Task, inputs_and_answer

# Timed runs of a trial, and the seconds after which building or running is given up.
RUNS = 5
BUILD_SECONDS = 120.0

Build = Callable[[Task, TileConfig, Target, Path, Path], Path]


class Workbench:
    """Builds candidates in processes of their own, two at a time, and runs them on `runner`."""

    def __init__(
        self, target: Target, runner: Runner, run_seconds: float = 20.0, build: Build = build_candidate
    ) -> None:
        self.target, self.runner, self.run_seconds, self.build = target, runner, run_seconds, build
        self._folder = TemporaryFolder()
        self._pool = PopenPoolExecutor(max_workers=2, timeout=BUILD_SECONDS)
        self._harnesses: dict[Task, Path] = {}

    def build_all(self, wanted: list[tuple[Task, TileConfig]]) -> list[Path | str]:
        """For each candidate its library, or why there is none."""
        jobs = [
            self._pool.submit(self.build, task, tile, self.target, self._harness(task), self._place(task, tile))
            for task, tile in wanted
        ]
        built: list[Path | str] = []
        for job in jobs:
            try:
                built.append(job.result())
            except TimeoutError:
                built.append(f"not built after {BUILD_SECONDS:g} s")
            except Exception as error:
                built.append((str(error).strip().splitlines() or [type(error).__name__])[-1])
        return built

    def _place(self, task: Task, tile: TileConfig) -> Path:
        return Path(self._folder.path, task.name.replace(" ", "-"), f"{tile}u{tile.k_unroll}")

    def _harness(self, task: Task) -> Path:
        if task not in self._harnesses:
            folder = Path(self._folder.path, task.name.replace(" ", "-"))
            self._harnesses[task] = compile_harness(task, self.target, folder, 1 if self.runner.estimate else None)
        return self._harnesses[task]

    def trial(self, task: Task, tile: TileConfig, library: Path | str) -> Record:
        """Run a candidate and compare its answer with float64. Raises RunnerError where the device is at fault."""
        if isinstance(library, str):
            return self.record(task, tile, "build", error=library)
        try:
            measurement, error = self.measure(task, tile, library)
        except RunFailed as failure:
            return self.record(task, tile, "hang" if "hung" in str(failure) else "crash", error=str(failure))
        if not error <= TOLERANCE:
            return self.record(task, tile, "wrong", error=f"differs from float64 by {error:.1e} of the range")
        return self.record(task, tile, "ok", measurement)

    def measure(self, task: Task, tile: TileConfig, library: Path) -> tuple[Measurement, float]:
        """One run's time, of `task.repeats` calls, and the error of its outputs."""
        given, _ = inputs_and_answer(task, tile)
        facts = describe(task, self.target)
        runs = 1 if self.runner.estimate else RUNS
        measurement, outputs = self.runner.run_library(library, facts, given, 1, runs, self.run_seconds)
        return measurement, error_of(task, tile, outputs)

    def record(
        self,
        task: Task,
        tile: TileConfig,
        status: str,
        measurement: Measurement | None = None,
        **detail: Any,
    ) -> Record:
        """ms: of one call, the least disturbed run's."""
        how = "estimated" if self.runner.estimate else "measured"
        ms = None
        if measurement:
            ms = min(measurement.samples_ms) / (1 if self.runner.estimate else task.repeats)
            detail |= {"rows": task.rows, "measurement": measurement.to_dict()}
        return Record(self.target.cpu.name, task.key, tile, status, how, ms, detail)

    def discard(self, library: Path) -> None:
        shutil.rmtree(library.parent, ignore_errors=True)

    def close(self) -> None:
        self._pool.shutdown()
        self._folder.close()
