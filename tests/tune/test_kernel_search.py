"""What MetaSchedule is told of tiles: which lie near by, which are fast, and in which unit."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from compile.cpus import AVX2
from compile.databases import Record
from compile.kernels.linear import Linear
from compile.kernels.tiles import default_tile
from tune.kernels import search
from tune.kernels.search import ENOUGH, MutateTile, TileModel, choice_in, task_of, workload
from tune.kernels.session import _Builder, _Future
from tune.kernels.tasks import Task

TASK = Task(Linear(40, 72, False, (), default_tile(AVX2), AVX2), 19, 1)
TILES = TASK.kernel.candidate_tiles()
KNOWN = range(0, len(TILES), len(TILES) // 40)


@pytest.fixture(scope="module")
def schedule() -> Any:
    result = s_tir.Schedule(workload(3, TASK))
    search._space(TASK)(result)
    return result


def test_a_candidate_says_which_task_and_tile_it_is(schedule: Any) -> None:
    choice = int(schedule.trace.decisions[schedule.trace.insts[0]])
    assert (task_of(schedule.mod), choice_in(schedule.mod)) == (3, choice)
    (passed_on,) = _Builder()._inst.build([SimpleNamespace(mod=schedule.mod)])
    assert passed_on.artifact_path == f"3 {choice}"


def test_a_tile_moves_to_one_near_by_in_either_direction(schedule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[list[int]] = []

    def choose(steps: list[int]) -> int:
        offered.append(steps)
        return steps[0]

    monkeypatch.setattr(search.random, "choice", choose)
    moved = MutateTile().apply(schedule.trace)
    before, after = (int(t.decisions[t.insts[0]]) for t in (schedule.trace, moved))
    assert sorted(offered[0]) == [-4, -3, -2, -1, 1, 2, 3, 4]
    assert after == (before + offered[0][0]) % len(TILES)


def candidates(tiles: Any, task: int = 0) -> list[Any]:
    return [SimpleNamespace(sch=SimpleNamespace(mod=task, choice=choice)) for choice in tiles]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("xgboost")
    monkeypatch.setattr(search, "task_of", lambda module: module)
    monkeypatch.setattr(search, "choice_of", lambda schedule: schedule.choice)
    return TileModel([TASK, TASK])._inst


def test_until_enough_is_known_nothing_is_predicted_and_then_shares_of_the_best(model: Any) -> None:
    def seconds(choice: int) -> Any:  # tiles of few rows fail, the widest of the others are twice as fast
        tile = TILES[choice]
        return SimpleNamespace(run_secs=None if tile.mr < 3 else [3e-3, 1e-3 if tile.nr > 16 else 2e-3])

    some = list(KNOWN)[: ENOUGH - 1]
    model.update(None, candidates(some), [seconds(choice) for choice in some])
    guesses = model.predict(None, candidates(some))
    assert len(set(guesses)) == ENOUGH - 1
    assert 0 <= guesses.min() < guesses.max() < 1
    assert (model.predict(None, candidates(some)) == guesses).all()
    model.update(None, candidates(KNOWN), [seconds(choice) for choice in KNOWN])
    shares = [0.0 if TILES[c].mr < 3 else 1.0 if TILES[c].nr > 16 else 0.5 for c in KNOWN]
    assert len(set(shares)) == 3
    assert model.predict(None, candidates(KNOWN)) == pytest.approx(np.array(shares), abs=0.1)


def test_a_task_of_which_no_tile_works_is_as_slow_as_can_be(model: Any) -> None:
    failed = [SimpleNamespace(run_secs=None)] * len(KNOWN)
    model.update(None, candidates(KNOWN), failed)
    assert model.predict(None, candidates(KNOWN)) == pytest.approx(np.zeros(len(KNOWN)), abs=0.1)


def test_a_task_is_judged_beside_its_own_best(model: Any) -> None:
    for task, ms_each in ((0, 1e-3), (1, 1.0)):
        model.update(None, candidates(KNOWN, task), [SimpleNamespace(run_secs=[ms_each])] * len(KNOWN))
    assert model.predict(None, candidates(KNOWN, 1)) == pytest.approx(np.ones(len(KNOWN)), abs=0.1)


def test_metaschedule_is_told_seconds_or_what_went_wrong() -> None:
    def told(record: Record | None) -> ms.runner.RunnerResult:
        return _Future(record)._inst.result()

    good = Record("c", TASK.key, TILES[0], "ok", "measured", 250.0)
    assert [float(s) for s in told(good).run_secs] == [0.25]
    crashed = told(Record("c", TASK.key, TILES[0], "crash", "measured"))
    assert (crashed.run_secs, crashed.error_msg) == (None, "crash")
    assert (told(None).run_secs, told(None).error_msg) == (None, "not tried")
