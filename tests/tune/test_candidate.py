"""What a search does with a candidate, step by step; kernels, libraries and times are made up."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna import TrialPruned
from optuna.trial import TrialState, create_trial

from tune.errors import TuneError
from tune.search import candidate as candidates
from tune.search.artifact import Build
from tune.search.candidate import Search
from tune.search.latency import Beside, Unmeasurable
from tune.search.space import SPACES, Limit
from tune.search.study import DIRECTIONS

TOY = SPACES["mobilebert-toy"]
SPACE = replace(TOY, rows=dict(list(TOY.rows.items())[:2]))
FIRST, SECOND = SPACE.rows
AXES = {"seq_len": (16, 8), "precision": ("float32", "int8")}


class Quality:
    """Counts the builds that it is asked for, in their order."""

    has_seeds = judges_all = True

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def prepare(self) -> None:
        pass

    def measure(self, config: Any, builds: Any, seed: int = 0) -> list[float]:
        self.asked += builds
        return [10.0 * build.seq_len + seed for build in builds]


def searching(quality: Any = None, axes: Any = None, runner: Any = None) -> Search:
    study = optuna.create_study(directions=DIRECTIONS)
    return Search(study, SPACE, Build(seq_len=16), runner, quality or Quality(), 1, 1.5, axes or {})


@pytest.mark.parametrize(("axes", "rows"), [({}, [FIRST, SECOND]), (AXES, [
    FIRST, f"{FIRST}, 16, int8", f"{FIRST}, 8, float32", f"{FIRST}, 8, int8", SECOND,
])], ids=["no axes", "two axes"])  # fmt: skip
def test_the_papers_rows_are_tried_first_and_the_reference_as_every_build(axes: dict, rows: list[str]) -> None:
    search = searching(axes=axes)
    search.enqueue_rows()
    search.enqueue_rows()  # another worker: nothing is there twice
    waiting = search.study.get_trials(states=[TrialState.WAITING])
    assert [trial.user_attrs["row"] for trial in waiting] == rows
    given = [trial.system_attrs["fixed_params"] for trial in waiting]
    assert given[-1] == dict(SPACE.parameters(SPACE.rows[SECOND])) | {name: values[0] for name, values in axes.items()}


@pytest.mark.parametrize(("excess", "pruned"), [(-0.5, False), (0.0, False), (0.001, True), (3.0, True)])
def test_what_exceeds_a_bound_is_pruned_and_a_row_of_the_papers_keeps_a_note(excess: float, pruned: bool) -> None:
    search, bounds = searching(), {"a": Limit(-1.0, "small"), "b": Limit(excess, "too wide"), "c": Limit(1.0, "slow")}
    trial = search.study.ask()
    with pytest.raises(TrialPruned, match="^too wide; slow$" if pruned else "^slow$"):
        search.hold(trial, bounds, spared=False)
    assert search.study.trials[0].constraints == {"a": -1.0, "b": excess, "c": 1.0}
    row = search.study.ask()
    search.hold(row, bounds, spared=True)
    assert row.user_attrs["outside"] == ("too wide; slow" if pruned else "slow")
    assert search.study.trials[1].constraints == {"a": 0.0, "b": 0.0, "c": 0.0}
    inside = search.study.ask()
    search.hold(inside, {"a": bounds["a"]}, spared=True)
    assert "outside" not in inside.user_attrs


def test_of_equal_architectures_the_first_one_goes_on_and_a_failed_one_is_tried_again() -> None:
    search = searching(axes=AXES)
    parameters = dict(SPACE.parameters(SPACE.rows[FIRST])) | {"seq_len": 16, "precision": "float32"}
    for _ in range(4):
        search.study.enqueue_trial(parameters, {"row": FIRST})
    failed = search.study.ask()
    search.config(failed)
    search.study.tell(failed, state=TrialState.FAIL)
    first, second, third = (search.study.ask() for _ in range(3))
    for trial in (second, first):  # they run at the same time: whose number is smaller has it
        for name, values in {**SPACE.choices, **AXES}.items():
            trial.suggest_categorical(name, values)
    assert search.config(first) == SPACE.rows[FIRST]
    with pytest.raises(TrialPruned, match=f"the same architecture as trial {first.number}"):
        search.config(second)
    search.study.tell(first, (1.0, 1.0, 1.0))
    with pytest.raises(TrialPruned, match=f"the same architecture as trial {first.number}"):
        search.config(third)
    search.study.enqueue_trial(parameters | {"seq_len": 8}, {"row": FIRST})
    assert search.config(search.study.ask()) == SPACE.rows[FIRST]  # another build of it is another candidate


@pytest.fixture
def predicting(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Search]:
    """predicting(total): a search whose kernels sum up to `total` ms; 6 are allowed, the reference takes 4."""

    def make(total: float) -> Search:
        search = searching()
        search.study.set_user_attr("reference", {"ms": 4.0})
        monkeypatch.setattr(search, "probe", lambda made, build: None)
        monkeypatch.setattr(candidates.predictor, "kernel_sum", lambda made, costs: total)
        return search

    return make


def test_what_is_predicted_to_be_too_slow_is_pruned_and_the_bound_itself_is_not(predicting: Callable) -> None:
    for total, pruned in ((5.9, False), (6.0, False), (6.01, True)):
        search = predicting(total)
        trial = search.study.ask()
        if pruned:
            with pytest.raises(TrialPruned, match=r"predicted 6\.01 ms, at most 6\.00 ms allowed"):
                search.predict(trial, None, search.build)
        else:
            assert search.predict(trial, None, search.build) == total
        assert (trial.user_attrs["kernel_sum_ms"], trial.user_attrs["predicted_ms"]) == (total, total)


def test_a_suspect_latency_teaches_the_prediction_nothing(predicting: Callable) -> None:
    search = predicting(2.0)
    for suspect in ("", "too fast"):
        attributes = {"kernel_sum_ms": 1.0, "suspect": suspect}
        values = (7.0, 50.0 if suspect else 1.0, 9.0)
        search.study.add_trial(create_trial(values=values, user_attrs=attributes))
    assert search.predict(search.study.ask(), None, search.build) == pytest.approx(2.0)


def test_a_kernel_is_measured_once_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    search, measured = searching(), []
    monkeypatch.setattr(candidates.predictor, "kernels", lambda made: {"a@16": "call a", "b@16": "call b"})
    monkeypatch.setattr(search, "kernel_ms", lambda call, made, build: measured.append(call) or 0.25)
    search.study.set_user_attr("kernel:a@16", 0.5)
    for _ in range(2):
        search.probe(None, search.build)  # type: ignore[arg-type]
    assert measured == ["call b"]
    assert candidates.shared.kernel_costs(search.study.user_attrs) == {"a@16": 0.5, "b@16": 0.25}


def test_a_kernels_cost_is_its_share_of_a_probe_beside_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searching()
    search.study.set_user_attr("reference", {"ms": 4.0})
    search.reference = "the reference"  # type: ignore[assignment]
    monkeypatch.setattr(candidates, "probe", lambda call, made: ("repeated", 8))
    monkeypatch.setattr(candidates, "library", lambda repeated, build, name, out: (repeated, name))
    given: list[Any] = []

    def beside(*arguments: Any) -> Beside:
        given.append(arguments)
        return Beside((3.0,), (2.0,), "a CPU", 1, "t", False)

    monkeypatch.setattr(candidates, "measure_beside", beside)
    with search:
        assert search.kernel_ms(None, None, search.build) == 3.0 / 2.0 * 4.0 / 8  # type: ignore[arg-type]
    assert given == [(None, ("repeated", "probe"), "the reference", 1, candidates.PROBE_TURNS, 4.0)]


def beginning(monkeypatch: pytest.MonkeyPatch, reference_ms: tuple[float, ...] = (2.0, 2.1, 2.2)) -> Search:
    here = SimpleNamespace(device="M", toolchain="m")
    runner = SimpleNamespace(
        peak_gflops={"float32": 100.0, "int8": 400.0}.get, measure=lambda folder, *, threads, runs: here
    )
    search = searching(axes=AXES, runner=runner)
    taken = Beside((2.2, 2.2, 2.2), reference_ms, "M", 1, "m", False)
    monkeypatch.setattr(search, "program", lambda config, build: (config, build))
    monkeypatch.setattr(candidates, "library", lambda made, build, name, out: made)
    monkeypatch.setattr(candidates, "measure_beside", lambda *_: taken)
    monkeypatch.setattr(candidates, "PAUSE", 0.0)
    return search


def test_a_study_begins_with_what_the_reference_takes_and_on_what(monkeypatch: pytest.MonkeyPatch) -> None:
    with beginning(monkeypatch) as search:
        search.prepare()
        begun = search.study.user_attrs["reference"]
        assert begun == {
            "ms": 2.0, "device": "M", "toolchain": "m", "peaks": {"float32": 100.0, "int8": 400.0}, "row": FIRST,
        }  # fmt: skip
        assert search.reference == (SPACE.rows[FIRST], Build(seq_len=16))
        waiting = len(search.study.trials)
        search.prepare()  # another worker, on the same machine
        assert len(search.study.trials) == waiting == 5
        for what in ("device", "toolchain"):
            for other in ("A", "z"):
                search.study.set_user_attr("reference", begun | {what: other})
                with pytest.raises(TuneError, match=f"was measured with {what} '{other}', here it is "):
                    search.prepare()


def test_a_reference_that_is_not_as_fast_as_itself_begins_no_study(monkeypatch: pytest.MonkeyPatch) -> None:
    for times in ((1.9, 1.9, 1.9), (2.6, 2.6, 2.6)):
        search = beginning(monkeypatch, times)
        said = r"too busy to begin: the reference beside itself takes .*, in the last of 5 attempts; the same command"
        with search, pytest.raises(Unmeasurable, match=said):
            search.prepare()
        assert search.study.user_attrs == {}
        assert search.study.trials == []


def test_a_busy_moment_does_not_keep_a_study_from_beginning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def beside(*_: Any) -> Beside:
        if (attempt := next(attempts)) == 1:
            raise Unmeasurable("34 turns were disturbed")
        return Beside((2.0 if attempt == 3 else 2.5,) * 3, (2.0,) * 3, "M", 1, "m", False)

    attempts = count(1)
    with beginning(monkeypatch) as search:
        monkeypatch.setattr(candidates, "measure_beside", beside)
        search.prepare()
    assert search.reference_ms == 2.0
    assert next(attempts) == 4
    assert capsys.readouterr().err.splitlines() == [
        "the machine is busy: 34 turns were disturbed; attempt 2 of 5 in 0 s",
        "the machine is busy: the reference beside itself takes 1.25 × its time; attempt 3 of 5 in 0 s",
    ]


@pytest.mark.parametrize("all_at_once", [True, False])
def test_quality_is_asked_once_for_each_architecture_or_build(all_at_once: bool) -> None:
    quality = Quality()
    quality.judges_all = all_at_once
    search = searching(quality, {"seq_len": (16, 8)})
    config = SPACE.rows[FIRST]
    long, short = search.builds
    assert [search.measured_quality(config, build) for build in (short, long, short)] == [80.0, 160.0, 80.0]
    assert quality.asked == ([long, short] if all_at_once else [short, long])
    assert search.measured_quality(SPACE.rows[SECOND], long) == 160.0
    assert len(quality.asked) == (4 if all_at_once else 3)


def finished(search: Search, *values: tuple[float, float, float]) -> None:
    parameters = {**SPACE.choices, **search.axes}
    distributions = {n: optuna.distributions.CategoricalDistribution(v) for n, v in parameters.items()}
    own = dict(SPACE.parameters(SPACE.rows[FIRST])) | {name: values[0] for name, values in search.axes.items()}
    for number, value in enumerate(values):
        row = {} if number else {"row": FIRST}
        trial = create_trial(values=value, params=own, distributions=distributions, user_attrs=row)
        search.study.add_trial(trial)


def test_what_another_worker_repeated_meanwhile_counts_once() -> None:
    class Slow(Quality):
        def measure(self, config: Any, builds: Any, seed: int = 0) -> list[float]:
            if seed == 1:  # another worker is faster with that seed
                search.study.set_user_attr("quality-again:0", [0.75])
            return [1.0 + seed / 8 for _ in builds]

    search = searching(Slow())
    finished(search, (1.0, 1.0, 1.0))
    assert search.repeat_qualities(1) == []
    assert search.repeat_qualities(3) == [0]
    assert search.study.user_attrs["quality-again:0"] == [0.75, 1.25]
    search.quality.has_seeds = False  # type: ignore[misc]
    assert search.repeat_qualities(9) == []


def test_the_reference_is_repeated_too_though_it_is_not_on_the_front() -> None:
    search = searching()
    finished(search, (160.0, 2.0, 1.0), (162.0, 1.0, 1.0), (50.0, 3.0, 1.0))
    assert sorted(search.repeat_qualities(2)) == [0, 1]
    assert search.study.user_attrs["quality-again:0"] == [161.0]


def test_a_front_that_is_measured_again_and_differs_is_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searching(axes={"seq_len": (8, 16)})
    finished(search, (2.0, 1.0, 1.0), (3.0, 2.0, 1.0), (1.0, 9.0, 9.0))
    again, asked = iter([1.05, 2.5]), []

    def measure(config: Any, made: Any, build: Build) -> dict[str, Any]:
        asked.append((config, build.seq_len))
        return {"ms": next(again)}

    monkeypatch.setattr(search, "program", lambda config, build: None)
    monkeypatch.setattr(search, "measure", measure)
    assert search.measure_front_again() == [0, 1]
    assert asked == [(SPACE.rows[FIRST], 8)] * 2
    assert search.study.user_attrs["again:0"] == {"ms": 1.05}
    assert search.study.user_attrs["again:1"] == {"ms": 2.5, "suspect": "measured 2.00 ms, then 2.50"}
    assert search.measure_front_again() == []
