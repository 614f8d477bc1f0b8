"""A candidate beside the reference on a machine that others use: what counts, what is taken again, what is refused."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from compile.artifact.manifest import LibraryFacts
from compile.running.runners.base import Device, Execution, RunFailed, Runner, parse_times
from compile.running.runners.local import LocalRunner, measuring
from compile.running.runners.measurement import Measurement
from tune.search import candidate as candidates
from tune.search import latency
from tune.search.candidate import Search
from tune.search.latency import VOID_TURNS, Beside, Unmeasurable, measure_beside
from tune.search.study import as_stored, front

OURS, REFERENCE = Path("candidate"), Path("reference")


@dataclass
class Machine:
    """A runner on which the candidate takes 0.3 ms and the reference 4.0; disturb(folder, call) changes a sample.

    A disturbance is (ms that another program had the processor, of them while the clock ran for us).
    """

    disturb: Any = lambda folder, call: 0.0
    slower: Any = lambda call: 1.0
    calls: list[Path] = field(default_factory=list)
    runs: int = 0

    def measure(self, folder: Path, *, threads: int, runs: int) -> Measurement:
        self.calls.append(folder)
        self.runs += runs
        own = (0.3 if folder == OURS else 4.0) * self.slower(len(self.calls))
        lost = self.disturb(folder, len(self.calls))
        return Measurement((own + lost,) * runs, "a CPU", (0,), threads, "", None, "t", False, (own,) * runs)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "PAUSE", 0.0)


def test_a_short_run_between_slices_beside_a_reference_that_lost_some_does_not_count() -> None:
    machine = Machine(disturb=lambda folder, call: 20.0 if folder == REFERENCE and call < 12 else 0.0)
    taken = measure_beside(machine, OURS, REFERENCE, 1, turns=5, usual_ms=4.0)  # type: ignore[arg-type]
    assert taken.ratio == pytest.approx(0.3 / 4.0)
    assert len(taken.candidate_ms) == len(taken.reference_ms) == 5
    assert taken.void == 6 or taken.void == 5


def test_a_machine_that_is_never_left_alone_is_said_so() -> None:
    machine = Machine(disturb=lambda folder, call: 20.0)
    with pytest.raises(
        Unmeasurable, match=f"{VOID_TURNS + 1} turns were disturbed, 0 of 5 were not; .*another program"
    ):
        measure_beside(machine, OURS, REFERENCE, 1, turns=5, usual_ms=4.0)  # type: ignore[arg-type]


def test_a_reference_far_from_its_first_time_does_not_count() -> None:
    machine = Machine(slower=lambda call: 1.0 if call > 8 else 2.0)  # another program on the core's other thread, say
    taken = measure_beside(machine, OURS, REFERENCE, 1, turns=3, usual_ms=4.0)  # type: ignore[arg-type]
    assert taken.void == 4
    with pytest.raises(Unmeasurable, match=r"the reference took 8\.00 ms, 4\.00 when the study began"):
        measure_beside(Machine(slower=lambda call: 2.0), OURS, REFERENCE, 1, usual_ms=4.0)  # type: ignore[arg-type]


def test_the_pause_after_a_disturbed_turn_grows_with_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(latency, "PAUSE", 0.05)
    monkeypatch.setattr(latency.time, "sleep", pauses.append)
    bad = {1, 2, 4, *range(6, 14)}  # turns, two calls each; those between count
    machine = Machine(disturb=lambda folder, call: 20.0 if (call + 1) // 2 in bad else 0.0)
    taken = measure_beside(machine, OURS, REFERENCE, 1, turns=3)  # type: ignore[arg-type]
    assert pauses == pytest.approx([0.05, 0.1, 0.05, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert (taken.void, len(taken.candidate_ms)) == (11, 3)


def test_turns_go_in_both_orders() -> None:
    machine = Machine()
    measure_beside(machine, OURS, REFERENCE, 1, turns=4)  # type: ignore[arg-type]
    pairs = [tuple(machine.calls[i : i + 2]) for i in range(0, 8, 2)]
    assert pairs == [(REFERENCE, OURS), (OURS, REFERENCE)] * 2


def test_a_reference_can_stand_beside_itself() -> None:
    taken = measure_beside(Machine(), REFERENCE, REFERENCE, 1, turns=3)  # type: ignore[arg-type]
    assert taken.ratio == 1.0


def test_a_latency_costs_eleven_turns_of_five_runs_each() -> None:
    machine = Machine()
    assert len(measure_beside(machine, OURS, REFERENCE, 1).candidate_ms) == 11  # type: ignore[arg-type]
    assert machine.runs == 2 * 11 * 5


def test_the_ratio_is_the_median_of_the_turns_ratios() -> None:
    beside = Beside((1.0, 2.0, 9.0), (1.0, 4.0, 3.0), "a CPU", 1, "t", False)
    assert beside.ratio == 1.0  # of 1, 0.5 and 3; the medians' ratio is 2 / 3
    assert beside.void == 0
    assert Beside.from_dict(as_stored(asdict(beside))) == beside


def test_samples_without_the_processor_are_no_steady_ones() -> None:
    taken = Measurement((1.0, 1.0, 3.0), "a CPU", (0,), 1, "", None, "t", False, (1.0, 0.96, 1.0))
    assert taken.steady_ms == (1.0, 1.0)
    assert Measurement((1.0, 3.0), "a phone", (0,), 1, "", None, "t").steady_ms == (1.0, 3.0)
    two = Measurement((1.0, 1.0), "a CPU", (0, 1), 2, "", None, "t", False, (1.0, 1.8))
    assert two.steady_ms == (1.0,)
    assert Measurement.from_dict(two.to_dict()) == two


def test_times_are_pairs_and_the_warm_up_is_left_out() -> None:
    assert parse_times("1 1\n2 2\n3000000 1000000\n4000000 4000000\n") == ((3.0, 4.0), (1.0, 4.0))
    assert parse_times("1 1\n2 2\n3000000\n4000000 4000000\n") == ((4.0,), (4.0,))


FACTS = LibraryFacts(name="m", target="x86_64-linux", cpu="x86-64-v3", inputs=(), outputs=())


@pytest.mark.parametrize(("walls", "cpus"), [(2, 2), (4, 4), (3, 2), (0, 0)])
def test_missing_samples_are_refused(walls: int, cpus: int) -> None:
    class Forgetful(Runner):
        def execute(self, *_: Any) -> Execution:
            return Execution((1.0,) * walls, b"", Device("a CPU", (0,)), (1.0,) * cpus)

    with pytest.raises(RunFailed, match=f"{walls} of 3 times came back"):
        Forgetful().run_library(Path("m.so"), FACTS, {}, 1, 3, 1.0)


def held(path: str) -> None:
    with measuring(), open(path, "a") as file:
        file.write("in ")
        file.flush()
        time.sleep(0.3)
        file.write("out ")


def test_one_library_at_a_time_is_measured_on_a_machine(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [multiprocessing.get_context("fork").Process(target=held, args=(str(log),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert log.read_text() == "in out " * 3


def test_the_program_runs_on_the_cores_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import sys

    from compile.running.runners import local

    monkeypatch.setattr(local, "runs_here", lambda target: True)
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nopen(sys.argv[4], 'w')\n"
        f"open({str(tmp_path / 'cores')!r}, 'w').write(str(sorted(os.sched_getaffinity(0))))\nprint('1 1\\n' * 3)\n"
    )
    program.chmod(0o755)
    core = max(os.sched_getaffinity(0))
    with LocalRunner([core], program) as runner:
        runner.execute(tmp_path / "m.so", FACTS, b"", 1, 1, 60.0)
    assert (tmp_path / "cores").read_text() == str([core])


# What a search makes of what it measured.


def built(precision: str = "float32") -> Any:
    return SimpleNamespace(key=lambda config: "k", precision=precision)


def searching(monkeypatch: pytest.MonkeyPatch, measured: Iterator[float], peak: float | None = 117.0) -> Search:
    """A search whose libraries do 10 MFLOP and take `measured` ms, one after the other; the reference slowed down."""
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    study.set_user_attr("reference", {"ms": 2.0} | ({"peaks": {"float32": peak, "int8": 4 * peak}} if peak else {}))
    search = Search(study, None, built(), None, None, 1, 2.0)  # type: ignore[arg-type]
    search.reference = REFERENCE

    def beside(*_: Any, **__: Any) -> Beside:
        return Beside((2 * next(measured),), (4.0,), "a CPU", 1, "t", False)

    def library(made: Any, build: Any, name: str, out: Path) -> Path:
        out.mkdir(parents=True)
        (out / "m.so").write_bytes(bytes(2**20))
        return out

    monkeypatch.setattr(candidates, "measure_beside", beside)
    monkeypatch.setattr(candidates, "library", library)
    monkeypatch.setattr(
        candidates, "read_manifest", lambda folder: SimpleNamespace(library="m.so", flops=10_000_000, sha256="f")
    )
    monkeypatch.setattr(candidates.shared, "artifact_name", lambda config: "a")
    return search


def latency_of(search: Search, predicted: float) -> dict[str, Any]:
    with search:
        return search.latency(None, None, predicted, search.build)  # type: ignore[arg-type]


def test_a_rate_above_the_cores_peak_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searching(monkeypatch, iter([0.012]))  # 833 GFLOP/s
    with pytest.raises(Unmeasurable, match=r"0\.012 ms are 833 GFLOP/s a core, whose peak is 117"):
        latency_of(search, 0.012)
    assert not [name for name in search.study.user_attrs if name.startswith("latency:")]


def test_the_peak_itself_can_be_reached_with_what_a_clock_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "ABOVE_PEAK", 1.0)
    search = searching(monkeypatch, iter([0.125]), peak=80.0)  # 10 MFLOP in 0.125 ms
    assert latency_of(search, 0.125)["ms"] == 0.125
    search = searching(monkeypatch, iter([0.125]), peak=None)  # a study of before peaks
    assert latency_of(search, 0.125)["ms"] == 0.125


def test_int8_has_a_peak_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for ms, refused in ((0.03, False), (0.012, True)):  # 333 and 833 GFLOP/s
        search = searching(monkeypatch, iter([ms]))
        search.build = built("int8")
        with pytest.raises(Unmeasurable, match="whose peak is 468") if refused else nullcontext():
            assert latency_of(search, ms)["ms"] == ms


def test_a_core_has_its_peak_and_two_have_twice_that(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searching(monkeypatch, iter([0.06]))  # 167 GFLOP/s
    search.threads = 2
    assert latency_of(search, 0.06)["ms"] == 0.06


def test_bounds_themselves_are_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "AS_PREDICTED", 2.0)
    monkeypatch.setattr(candidates, "THE_SAME", 0.125)
    for measured in (0.25, 1.0):
        assert "suspect" not in latency_of(searching(monkeypatch, iter([measured])), 0.5)
    assert candidates.same(8.0, 9.0)
    assert candidates.same(8.0, 7.0)
    assert not candidates.same(8.0, 9.1)


def test_a_latency_as_predicted_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = latency_of(searching(monkeypatch, iter([0.2])), 0.21)
    assert (found["ms"], found["mib"]) == (0.2, 1.0)
    assert "suspect" not in found


def test_one_far_from_the_prediction_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unmeasurable, match=r"0\.20 and 0\.39 ms in two measurements, 0\.40 predicted"):
        latency_of(searching(monkeypatch, iter([0.2, 0.39])), 0.4)
    search = searching(monkeypatch, iter([0.2, 0.21]))
    assert latency_of(search, 0.4)["suspect"] == "predicted 0.40 ms, measured 0.20 twice"
    assert latency_of(search, 0.4)["suspect"]  # kept with the study


def test_a_suspect_is_on_no_front_and_hides_nobody() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for ms, suspect in ((1.0, ""), (0.1, "impossible"), (2.0, ""), (0.9, "")):
        trial = study.ask()
        trial.set_user_attr("suspect", suspect)
        study.tell(trial, (1.0, ms, 1.0))
    assert [t.number for t in front(study)] == [3]
    study.set_user_attr("again:3", {"ms": 3.0, "suspect": "measured 0.90 ms, then 3.00"})
    assert [t.number for t in front(study)] == [0]
