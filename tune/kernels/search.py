"""What TVM's MetaSchedule is given: tasks, a space, a mutator, a cost model. Searching and scheduling are its own.

A task stands in MetaSchedule as the plain definition of its matrix product. Its space has one decision: which of the
tiles that fit the instruction set. The decision ends up as an annotation, from which the builder knows what to compile.
"""

from __future__ import annotations

import importlib
import random
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tvm import s_tir, te
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from compile.kernels.tiles import TileConfig
from compile.targets import Target
from tune.kernels.tasks import Task

BLOCK, TILE, TASK = "y", "pocketbert.tile", "pocketbert.task"
# So many trials are asked for at a time.
BATCH = 8
# Fewer results than these teach the cost model nothing.
ENOUGH = 12


def contexts(tasks: Sequence[Task], target: Target, seed: int) -> list[Any]:
    """A MetaSchedule tuning context for each task."""
    import tvm

    llvm = tvm.target.Target(target.llvm())
    with tensor_intrinsics():  # our space has none
        return [
            ms.TuneContext(
                mod=workload(index, task),
                target=llvm,
                space_generator=ms.space_generator.ScheduleFn(
                    _space(task), sch_rules=[], postprocs=[], mutator_probs={MutateTile(): 1.0}
                ),
                search_strategy=ms.search_strategy.EvolutionarySearch(
                    population_size=32, init_measured_ratio=0.2, init_min_unmeasured=4, genetic_num_iters=2
                ),
                task_name=task.name,
                rand_state=seed + index + 1,
                num_threads=1,
                logger=ms.logging.get_logger("tune"),
            ).clone()
            for index, task in enumerate(tasks)
        ]


@contextmanager
def tensor_intrinsics(*names: str) -> Iterator[None]:
    """Of TVM's tensor intrinsics, only those in these modules: a tuning context imports every GPU's, over a minute."""
    package = "tvm.s_tir.tensor_intrin"
    if package not in sys.modules:
        stub = types.ModuleType(package)
        stub.__path__ = [str(Path(s_tir.__file__).with_name("tensor_intrin"))]
        sys.modules[package] = stub
        try:
            for name in names:
                importlib.import_module(f"{package}.{name}")
            yield
        finally:
            del sys.modules[package]
    else:
        yield


def workload(index: int, task: Task) -> Any:
    """The product that the task stands for: an attention's is that of its scores."""
    rows, k, n = task.rows, task.key.k, task.key.n
    x, w = te.placeholder((rows, k), name="x"), te.placeholder((k, n), name="w")
    r = te.reduce_axis((0, k), name="r")
    y = te.compute((rows, n), lambda i, j: te.sum(x[i, r] * w[r, j], axis=r), name=BLOCK)
    return te.create_prim_func([x, w, y]).with_attr("global_symbol", "main").with_attr(TASK, index)


def _space(task: Task) -> Any:
    count = len(task.kernel.candidate_tiles())

    def schedule(sch: Any) -> None:
        choice = sch.sample_categorical(list(range(count)), [1.0 / count] * count)
        sch.annotate(sch.get_sblock(BLOCK, func_name="main"), TILE, choice)

    return schedule


def task_of(module: Any) -> int:
    """The index of the task that a candidate belongs to."""
    return int(module["main"].attrs[TASK])


def choice_of(schedule: Any) -> int:
    """The index of the tile that was decided on."""
    return int(schedule.get(schedule.get_sblock(BLOCK, func_name="main")).annotations[TILE])


def choice_in(module: Any) -> int:
    return choice_of(s_tir.Schedule(module))


@derived_object
class MutateTile(ms.mutator.PyMutator):
    """Moves to a tile near by in the table, which is in order of rows, then columns, then unrolling."""

    def _initialize_with_tune_context(self, context: Any) -> None:
        pass

    def apply(self, trace: Any, _: Any) -> Any:
        (decision,) = [inst for inst in trace.insts if inst.kind.name == "SampleCategorical"]
        count = len(decision.attrs[0])
        step = random.choice([-4, -3, -2, -1, 1, 2, 3, 4])
        return trace.with_decision(decision, (int(trace.decisions[decision]) + step) % count, True)

    def clone(self) -> Any:
        return MutateTile()


@derived_object
class TileModel(ms.cost_model.PyCostModel):
    """Predicts a tile's speed beside the best of its task, from all tasks' results: boosted trees on six features.

    MetaSchedule's own model reads features off the loops of a scheduled product; our kernels are not made that way.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.speeds: dict[tuple[int, int], float] = {}
        self.model: Any = None

    def load(self, path: str) -> None:
        raise NotImplementedError

    def save(self, path: str) -> None:
        raise NotImplementedError

    def update(self, context: Any, candidates: Any, results: Any) -> None:
        import xgboost

        for candidate, result in zip(candidates, results, strict=True):
            at = (task_of(candidate.sch.mod), choice_of(candidate.sch))
            seconds = [float(s) for s in result.run_secs] if result.run_secs is not None else []
            self.speeds[at] = 1.0 / min(seconds) if seconds else 0.0
        best = {task: max(s for (t, _), s in self.speeds.items() if t == task) or 1.0 for task, _ in self.speeds}
        if len(self.speeds) >= ENOUGH:
            features = np.array([self._features(*at) for at in self.speeds])
            shares = np.array([speed / best[task] for (task, _), speed in self.speeds.items()])
            self.model = xgboost.XGBRegressor(n_estimators=50, max_depth=4, learning_rate=0.2, n_jobs=1)
            self.model.fit(features, shares)

    def predict(self, context: Any, candidates: Any) -> Any:
        if self.model is None:
            return np.random.default_rng(0).random(len(candidates))
        return self.model.predict(
            np.array([self._features(task_of(c.sch.mod), choice_of(c.sch)) for c in candidates])
        ).astype("float64")

    def _features(self, task: int, choice: int) -> list[float]:
        tile: TileConfig = self.tasks[task].kernel.candidate_tiles()[choice]
        key = self.tasks[task].key
        return [tile.mr, tile.nr, tile.k_unroll, key.k, key.n, self.tasks[task].rows % tile.mr]
