"""A tuning session: MetaSchedule proposes tiles, the workbench tries them, the journal keeps every result.

What the journal already has is answered from it, so a session that was killed goes on where it was. At the end the
fastest tiles of each task run in turns with the default, and one that is not clearly faster does not replace it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from compile.databases import Record
from compile.kernels.tiles import TileConfig
from compile.running.runners.base import RunFailed
from tune.kernels.journal import Journal
from tune.kernels.search import BATCH, TileModel, choice_in, contexts, task_of
from tune.kernels.tasks import Task, peak_task
from tune.kernels.trials import Workbench

FINALISTS = 3
ROUNDS = 5
# A tile replaces the default only if it is this much faster in the median round: less may be noise.
MARGIN = 0.01


@dataclass
class Progress:
    """Where a task is. trials and failed count the journal's too."""

    task: Task
    trials: int = 0
    failed: int = 0
    best: Record | None = None
    state: str = "waiting"

    @property
    def gflops(self) -> float:
        """GFLOP/s of the best tile so far."""
        return self.task.flops / self.best.ms / 1e6 if self.best and self.best.ms else 0.0


@dataclass
class Session:
    """trials: at most so many a task, the journal's included; seconds: after which no more are begun; report: called
    after every step."""

    tasks: list[Task]
    bench: Workbench
    journal: Journal
    trials: int
    seconds: float = float("inf")
    seed: int = 0
    report: Callable[[Session], None] = lambda _: None
    progress: list[Progress] = field(default_factory=list)
    measured: int = 0

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.progress = [Progress(task) for task in self.tasks]
        self._fresh: set[Task] = set()
        for index, task in enumerate(self.tasks):
            for record in self.journal.of(task.key):
                self._note(index, record)

    @property
    def time_left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def peak_gflops(self) -> float:
        """GFLOP/s of a core that waits for nothing; 0 where there are no times."""
        if self.bench.runner.estimate:
            return 0.0
        task = peak_task(self.tasks[0].kernel.isa)
        tile = task.kernel.tile
        (library,) = self.bench.build_all([(task, tile)])
        if isinstance(library, str):
            return 0.0
        measurement, _ = self.bench.measure(task, tile, library)
        return task.flops * task.repeats / min(measurement.samples_ms) / 1e6

    def choose_tiles(self) -> list[Record]:
        """The chosen record of each task of which any tile works. Raises RunnerError where the device fails."""
        self.try_all([(index, self._default(task)) for index, task in enumerate(self.tasks)])
        self._search()
        finals = [self._final(index) for index in range(len(self.tasks))]
        return [record for record in finals if record]

    def _default(self, task: Task) -> TileConfig:
        return task.kernel.candidate_tiles()[0]

    # --- trials

    def try_all(self, wanted: Sequence[tuple[int, TileConfig]]) -> list[Record | None]:
        """A record for each candidate: the journal's, or a new one; None where trials or time are used up."""
        fresh: list[tuple[int, TileConfig]] = []
        counts = [p.trials for p in self.progress]
        for index, tile in wanted:
            has_record = (self.tasks[index].key, tile) in self.journal.trials or (index, tile) in fresh
            if not has_record and counts[index] < self.trials and self.time_left > 0:
                fresh.append((index, tile))
                counts[index] += 1
                self.progress[index].state = "building"
        self.report(self)
        built = self.bench.build_all([(self.tasks[index], tile) for index, tile in fresh])

        def judge(job: tuple[tuple[int, TileConfig], Path | str]) -> tuple[int, Record]:
            (index, tile), library = job
            record = self.bench.trial(self.tasks[index], tile, library)
            if isinstance(library, Path):
                self.bench.discard(library)
            return index, record

        with ThreadPoolExecutor(self.bench.runner.slots) as pool:
            for index, record in pool.map(judge, zip(fresh, built, strict=True)):
                self.journal.append(record)
                self.measured += 1
                self._fresh.add(self.tasks[index])
                self._note(index, record)
                self.report(self)
        return [self.journal.trials.get((self.tasks[index].key, tile)) for index, tile in wanted]

    def _note(self, index: int, record: Record) -> None:
        progress = self.progress[index]
        progress.trials += 1
        progress.state = "searching"
        if record.status != "ok":
            progress.failed += 1
        elif progress.best is None or (record.ms or 0) < (progress.best.ms or 0):
            progress.best = record

    def _search(self) -> None:
        model = TileModel(self.tasks)
        tuning = contexts(self.tasks, self.bench.target, self.seed)
        try:
            ms.tune.tune_tasks(
                tasks=tuning,
                task_weights=[float(task.calls) for task in self.tasks],
                work_dir="",
                max_trials_global=self.trials * len(self.tasks),
                max_trials_per_task=self.trials,
                num_trials_per_iter=BATCH,
                builder=_Builder(),
                runner=_Runner(self),
                database=ms.database.MemoryDatabase(),
                cost_model=model,
                measure_callbacks=[ms.measure_callback.AddToDatabase(), ms.measure_callback.UpdateCostModel()],
            )
        except Exception:
            if self.time_left > 0:
                raise

    # --- choosing

    def _final(self, index: int) -> Record | None:
        """Run the fastest tiles in turns with the default; append and return what is chosen."""
        task, progress = self.tasks[index], self.progress[index]
        if task.key in self.journal.chosen and task not in self._fresh:
            progress.state = "chosen before"
            return self.journal.chosen[task.key]
        progress.state = "final"
        self.report(self)
        default = self._default(task)
        good = sorted((r for r in self.journal.of(task.key) if r.status == "ok"), key=lambda r: r.ms or 0)
        if not good:
            progress.state = "no tile works"
            return None
        tiles = [r.tile for r in good if r.tile != default][:FINALISTS]
        if any(r.tile == default for r in good):
            tiles.insert(0, default)
        ratios = self._in_turns(task, tiles)
        winner = min(ratios, key=lambda tile: ratios[tile])
        if ratios[winner] > 1 - MARGIN:
            winner = tiles[0]
        base = self.journal.trials[task.key, winner]
        detail = base.detail | {"of_default": round(ratios[winner], 4), "rounds": ROUNDS}
        chosen = Record(base.cpu, task.key, winner, "chosen", base.how, base.ms, detail)
        self.journal.append(chosen)
        progress.state = f"{winner}" if winner == default else f"{winner} ({1 / ratios[winner] - 1:+.1%})"
        progress.best = base
        self.report(self)
        return chosen

    def _in_turns(self, task: Task, tiles: list[TileConfig]) -> dict[TileConfig, float]:
        """Median time of each tile in a round as a share of the first one's: the default's where that works."""
        if self.bench.runner.estimate:  # counted once, counted for good
            counts = [self.journal.trials[task.key, tile].ms or 0.0 for tile in tiles]
            return {tile: count / counts[0] for tile, count in zip(tiles, counts, strict=True)}
        libraries = self.bench.build_all([(task, tile) for tile in tiles])
        samples: dict[TileConfig, list[float]] = {tile: [] for tile in tiles}
        for turn in range(ROUNDS):
            order = list(zip(tiles, libraries, strict=True))
            for tile, library in order if turn % 2 else reversed(order):
                try:
                    if isinstance(library, str):
                        raise RunFailed(library)
                    samples[tile].append(min(self.bench.measure(task, tile, library)[0].samples_ms))
                except RunFailed:
                    samples[tile].append(float("inf"))
        base = samples[tiles[0]]
        return {tile: median(t / b for t, b in zip(times, base, strict=True)) for tile, times in samples.items()}


@derived_object
class _Builder(ms.builder.PyBuilder):
    """Passes on which candidate it is; the session builds and runs in one go."""

    def build(self, build_inputs: Any) -> Any:
        return [ms.builder.BuilderResult(f"{task_of(i.mod)} {choice_in(i.mod)}", None) for i in build_inputs]


@derived_object
class _Runner(ms.runner.PyRunner):
    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def run(self, runner_inputs: Any) -> Any:
        session = self.session
        if session.time_left <= 0:
            raise TimeoutError("the session's time is used up")
        wanted = []
        for candidate in runner_inputs:
            index, choice = map(int, str(candidate.artifact_path).split())
            wanted.append((index, session.tasks[index].kernel.candidate_tiles()[choice]))
        return [_Future(record) for record in session.try_all(wanted)]


@derived_object
class _Future(ms.runner.PyRunnerFuture):
    def __init__(self, record: Record | None) -> None:
        super().__init__()
        self.record = record

    def done(self) -> bool:
        return True

    def result(self) -> Any:
        if self.record is None or self.record.ms is None:
            return ms.runner.RunnerResult(None, self.record.status if self.record else "not tried")
        return ms.runner.RunnerResult([self.record.ms / 1e3], None)
