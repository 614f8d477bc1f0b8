"""What a session makes of the times it is told: which trials it begins, and when a tile replaces the default."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from compile.cpus import AVX2, CPUS
from compile.databases import Record
from compile.kernels.attention import Attention
from compile.kernels.contract import ALIGNMENT, SLACK
from compile.kernels.linear import Linear
from compile.kernels.tiles import TileConfig, default_tile
from compile.running.runners.base import RunFailed
from tune.kernels import session as sessions
from tune.kernels.command import table
from tune.kernels.journal import Journal
from tune.kernels.library import task_header
from tune.kernels.session import Session
from tune.kernels.tasks import Task, inputs_and_answer, peak_task

CPU = CPUS["x86-64-v3"]


def task(k: int = 40) -> Task:
    return Task(Linear(k, 72, False, (), default_tile(AVX2), AVX2), 19, 1)


TILES = task().kernel.candidate_tiles()[:5]


class Bench:
    """Every trial takes 10 ms unless `first` says otherwise; a tile's rounds take what `rounds` says, in order."""

    def __init__(self, first: dict[TileConfig, float] | None = None, rounds: Callable | None = None) -> None:
        self.first, self.rounds = first or {}, rounds or (lambda tile: iter([10.0] * 5))
        self.runner, self.calls, self.discarded = SimpleNamespace(estimate=False, slots=1), [], []
        self._left: dict[TileConfig, Iterator[Any]] = {}

    def build_all(self, wanted: list[tuple[Task, TileConfig]]) -> list[Path | str]:
        return [Path(f"{tile}.so") if self.first.get(tile, 10.0) >= 0 else "no compiler" for _, tile in wanted]

    def discard(self, library: Path) -> None:
        self.discarded.append(library.stem)

    def trial(self, task: Task, tile: TileConfig, library: Path | str) -> Record:
        if isinstance(library, str):
            return Record(CPU.name, task.key, tile, "build", "measured", None, {})
        ms = self.first.get(tile, 10.0)
        return Record(CPU.name, task.key, tile, "ok" if ms else "wrong", "measured", ms or None, {})

    def measure(self, task: Task, tile: TileConfig, library: Path) -> tuple[Any, float]:
        self.calls.append(tile)
        ms = next(self._left.setdefault(tile, iter(self.rounds(tile))))
        if ms is None:
            raise RunFailed("crashed")
        return SimpleNamespace(samples_ms=(ms + 5.0, ms, ms + 1.0)), 0.0


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    """session(bench, tried, …): one that tries the default and those tiles, and searches no further."""

    def make(bench: Bench, *tried: TileConfig, **options: Any) -> Session:
        monkeypatch.setattr(Session, "_search", lambda self: self.try_all([(0, tile) for tile in tried]))
        options = {"trials": 10} | options
        return Session([task()], bench, Journal(tmp_path / "db.jsonl", CPU), **options)  # type: ignore[arg-type]

    return make


DEFAULT, OTHER, THIRD, FOURTH, FIFTH = TILES


def test_a_tiles_share_of_the_default_is_the_median_of_the_rounds_ratios(session: Callable) -> None:
    """The machine slows down meanwhile; of the medians the ratio would be 1.2 and not 0.9."""
    default, other = [10.0, 10.0, 20.0, 20.0, 10.0], [9.0, 12.0, 18.0, 18.0, 12.0]
    bench = Bench(rounds=lambda tile: iter(default if tile == DEFAULT else other))
    (chosen,) = session(bench, OTHER).choose_tiles()
    assert (chosen.tile, chosen.detail["of_default"]) == (OTHER, 0.9)


@pytest.mark.parametrize(("share", "winner"), [(0.985, OTHER), (0.992, DEFAULT), (1.0, DEFAULT), (1.2, DEFAULT)])
def test_a_tile_replaces_the_default_only_where_it_is_clearly_faster(
    share: float, winner: TileConfig, session: Callable
) -> None:
    bench = Bench(rounds=lambda tile: iter([10.0 if tile == DEFAULT else 10.0 * share] * 5))
    made = session(bench, OTHER)
    (chosen,) = made.choose_tiles()
    assert (chosen.tile, chosen.status) == (winner, "chosen")
    assert chosen.detail["of_default"] == (round(share, 4) if winner == OTHER else 1.0)
    assert made.progress[0].state == (f"{OTHER} (+1.5%)" if winner == OTHER else str(DEFAULT))


def test_rounds_go_in_both_orders_over_the_default_and_the_three_fastest(session: Callable) -> None:
    bench = Bench(first={OTHER: 3.0, THIRD: 1.0, FOURTH: 2.0, FIFTH: 9.0})
    session(bench, OTHER, THIRD, FOURTH, FIFTH).choose_tiles()
    order = [DEFAULT, THIRD, FOURTH, OTHER]
    assert bench.calls == (order[::-1] + order) * 2 + order[::-1]


def test_a_tile_that_fails_in_some_rounds_is_not_chosen_for_the_others(session: Callable) -> None:
    bench = Bench(rounds=lambda tile: iter([10.0] * 5 if tile == DEFAULT else [1.0, None, None, None, 1.0]))
    (chosen,) = session(bench, OTHER).choose_tiles()
    assert chosen.tile == DEFAULT


def test_without_a_default_that_works_the_fastest_of_the_others_is_the_measure(session: Callable) -> None:
    bench = Bench(first={DEFAULT: 0.0, OTHER: 4.0, THIRD: 5.0})
    (chosen,) = session(bench, OTHER, THIRD).choose_tiles()
    assert (chosen.tile, chosen.ms) == (OTHER, 4.0)
    assert DEFAULT not in bench.calls


def test_no_tile_that_works_is_chosen(session: Callable) -> None:
    made = session(Bench(first={DEFAULT: 0.0, OTHER: 0.0}), OTHER)
    assert made.choose_tiles() == []
    assert (made.progress[0].state, made.progress[0].failed, made.progress[0].gflops) == ("no tile works", 2, 0.0)


def test_trials_end_with_their_number_and_the_journals_count(session: Callable) -> None:
    made = session(Bench(), trials=2)
    assert [bool(r) for r in made.try_all([(0, tile) for tile in (DEFAULT, OTHER, THIRD, DEFAULT)])] == [
        True, True, False, True,
    ]  # fmt: skip
    assert (made.measured, made.progress[0].trials) == (2, 2)
    again = session(Bench(), trials=3)
    assert [bool(r) for r in again.try_all([(0, OTHER), (0, THIRD), (0, FOURTH)])] == [True, True, False]
    assert (again.measured, again.progress[0].trials) == (1, 3)


def test_one_candidate_asked_for_twice_is_tried_once(session: Callable) -> None:
    made = session(Bench())
    made.try_all([(0, OTHER), (0, OTHER)])
    assert made.measured == 1


def test_no_trial_begins_once_the_time_is_used_up(session: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    made = session(Bench(), seconds=60.0)
    now = made.started
    monkeypatch.setattr(sessions.time, "monotonic", lambda: now)
    assert made.time_left == 60.0
    now += 59.0
    assert made.try_all([(0, DEFAULT)]) != [None]
    now += 1.0
    assert made.try_all([(0, OTHER), (0, DEFAULT)])[0] is None
    assert made.measured == 1


def test_progress_follows_the_best_trial(session: Callable) -> None:
    bench = Bench(first={DEFAULT: 5.0, OTHER: 4.0, THIRD: 6.0, FOURTH: 0.0})
    made = session(bench)
    made.try_all([(0, tile) for tile in (DEFAULT, OTHER, THIRD, FOURTH)])
    progress = made.progress[0]
    assert progress.best is not None
    assert (progress.best.tile, progress.trials, progress.failed) == (OTHER, 4, 1)
    assert progress.gflops == pytest.approx(2 * 19 * 40 * 72 / 4e-3 / 1e9)


def test_the_library_of_a_trial_goes_once_it_was_tried(session: Callable) -> None:
    made = session(Bench(first={OTHER: -1.0, THIRD: 0.0}))  # one that cannot be built, and one that is wrong
    made.try_all([(0, tile) for tile in (DEFAULT, OTHER, THIRD)])
    assert made.bench.discarded == [str(DEFAULT), str(THIRD)]
    assert [record.status for record in made.journal.of(task().key)] == ["ok", "build", "wrong"]


def test_a_peak_is_timed_and_never_estimated(session: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    peak = peak_task(AVX2)
    made = session(Bench(rounds=lambda tile: iter([2.0])))
    assert made.peak_gflops() == pytest.approx(peak.flops * peak.repeats / 2e-3 / 1e9)
    assert session(Bench(first={peak.kernel.tile: -1.0})).peak_gflops() == 0.0
    made.bench.runner.estimate = True
    assert made.peak_gflops() == 0.0


def test_an_error_within_metaschedule_ends_the_session_but_for_the_end_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def fail(**arguments: Any) -> None:
        given.update(arguments)
        raise TimeoutError("the session's time is used up")

    monkeypatch.setattr(sessions.ms.tune, "tune_tasks", fail)
    monkeypatch.setattr(sessions, "contexts", lambda *_: "contexts")
    tasks = [replace(task(), calls=3), replace(task(48), calls=2)]
    bench: Any = Bench()
    bench.target = None
    made = Session(tasks, bench, Journal(tmp_path / "db.jsonl", CPU), trials=7, seconds=60.0)
    with pytest.raises(TimeoutError):
        made._search()
    wanted = {"tasks": "contexts", "task_weights": [3.0, 2.0], "max_trials_global": 14, "max_trials_per_task": 7}
    assert {name: given[name] for name in wanted} == wanted
    made.seconds = 0.0
    made._search()


def test_what_a_session_shows_of_each_task(session: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    made = session(Bench(first={DEFAULT: 0.0, OTHER: 1.0}), trials=4)
    made.tasks.append(replace(task(48), calls=2))
    made.progress.append(sessions.Progress(made.tasks[1]))
    made.try_all([(0, DEFAULT), (0, OTHER)])
    made.bench.target = SimpleNamespace(cpu=CPU)
    made.progress[0].state = "final"

    def shown(peak: float) -> list[list[str]]:
        lines = StringIO()
        Console(file=lines, width=200).print(table(made, peak))
        return [line.split("│")[1:-1] for line in lines.getvalue().splitlines() if "linear" in line]

    flops = made.progress[0].gflops
    first, second = shown(2 * flops)
    assert [cell.strip() for cell in first] == [
        "linear 40x72", "1", "2/4", "1", f"{OTHER} ×{OTHER.k_unroll}", f"{flops:.1f}", "50%", "final",
    ]  # fmt: skip
    assert [cell.strip() for cell in second if cell.strip()] == ["linear 48x72", "2", "0/4", "0", "waiting"]
    assert shown(flops / 2)[0][6].strip() == "100%"  # a kernel's best run may beat the yardstick
    assert "%" not in "".join(shown(0.0)[0])
    made.bench.runner = SimpleNamespace(estimate=True, unit="M cycles")
    assert shown(0.0)[0][5].strip() == "1.000"
    assert table(made, 0.0).title == CPU.name  # type: ignore[union-attr]
    monkeypatch.setattr(sessions.time, "monotonic", lambda: made.started + 12.0)
    for made.seconds, left in ((60.0, 48), (10.0, 0)):
        assert table(made, 0.0).title == f"{CPU.name}, {left} s left"  # type: ignore[union-attr]


def test_what_was_chosen_before_stays_unless_something_new_was_tried(session: Callable) -> None:
    faster = Bench(rounds=lambda tile: iter([10.0 if tile == DEFAULT else 5.0] * 5))
    (chosen,) = session(faster, OTHER).choose_tiles()
    assert chosen.tile == OTHER
    again = session(Bench(), OTHER)
    (same,) = again.choose_tiles()
    assert (same.tile, again.progress[0].state, again.bench.calls) == (OTHER, "chosen before", [])
    (other,) = session(Bench(), OTHER, THIRD).choose_tiles()
    assert other.tile == DEFAULT


def test_the_harness_is_told_what_the_kernel_takes() -> None:
    cold, hot = task(), replace(task(), hot=5)
    for one, copies, call in ((cold, "2", r"w\[turn\]"), (hot, "1", r"w\[0\]")):
        text = task_header(one, 2)
        assert "enum { REPEATS = 2 };" in text
        sizes = dict(re.findall(r"enum \{ (\w+)_BYTES = (\d+) \};", text))
        lines = {buffer.name: -(-4 * buffer.size // ALIGNMENT) * ALIGNMENT for buffer in one.buffers}
        assert {name: int(size) for name, size in sizes.items()} == {name: n + SLACK for name, n in lines.items()}
        arrays = dict(re.findall(r"char (\w+)\[(\d+)\]\[", text))
        assert arrays == {name: copies if name == "w" else "1" for name in lines}
        assert re.search(rf"    kernel\(.*{call}.*\);", text)
        assert len(re.findall(r"POCKETBERT_FLOAT32", text)) == sum(b.role in ("input", "output") for b in one.buffers)


def test_as_many_calls_are_timed_as_find_their_weights_outside_of_caches() -> None:
    one, attention = task(), Task(Attention(2, 32, 0.2, True, default_tile(AVX2), AVX2), 33, 1)
    assert one.repeats * one.kernel.weight_bytes == pytest.approx(32 * 2**20, rel=0.01)
    assert replace(one, hot=7).repeats == 7
    assert Task(Linear(4096, 4096, False, (), default_tile(AVX2), AVX2), 1, 1).repeats == 1
    assert attention.repeats == 32
    workspace = max(attention.kernel.with_tile(t).workspace_bytes(33, 33) for t in attention.kernel.candidate_tiles())
    assert [4 * b.size for b in attention.buffers if b.role == "scratch"] == [workspace]
    assert one.flops == 2 * 19 * 40 * 72
    assert [b.role for b in one.buffers if b.name == "y"] == ["output"]
    for tile in one.kernel.candidate_tiles()[::40]:  # buffers are as large as any tile wants
        inputs, _ = inputs_and_answer(one, tile)
        assert all(inputs[b.name].size == b.size for b in one.buffers if b.name in inputs)
    peak = peak_task(AVX2)
    assert (peak.calls, peak.hot, peak.rows % peak.kernel.tile.mr) == (1, 500, 0)
    assert peak.kernel.weight_bytes < 32 << 10  # the first-level cache
