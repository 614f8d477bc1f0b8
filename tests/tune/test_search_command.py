"""How the search's command line begins a search, goes on with it, and ends."""

import errno
import os
import signal
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna import TrialPruned
from optuna.trial import TrialState

from compile.running.runners.base import RunnerError
from pocketbert.errors import describe
from tests.support.asked import last_words
from tests.support.paths import NASTY
from tune.__main__ import main, parser
from tune.errors import TuneError
from tune.search import command
from tune.search.artifact import Build
from tune.search.candidate import Search
from tune.search.command import begun, loop
from tune.search.latency import Unmeasurable
from tune.search.space import SPACES
from tune.search.storage import load_study, open_storage
from tune.search.study import DIRECTIONS, Settings, join_study, settings_of
from tune.search.workers import Worker


@pytest.fixture
def beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """beginning(arguments): the search that `python -m tune search` makes of them; nothing runs."""

    @contextmanager
    def no_runner(args: Any, target: Any) -> Any:
        yield None

    monkeypatch.setattr(command, "make_runner", no_runner)
    monkeypatch.setattr(Search, "prepare", lambda self: None)

    def make(*arguments: str, name: str = "s") -> Search:
        given = [
            "search",
            "--study",
            name,
            "--storage",
            f"sqlite:///{tmp_path}/s.db",
            "--quality-command",
            "q {config}",
        ]
        with begun(parser("tune").parse_args([*given, *arguments])) as search:
            return search

    return make


def test_a_search_begins_as_its_command_line_says(beginning: Any) -> None:
    plain, space = beginning("--cpu", "x86-64-v3"), SPACES["mobilebert"]
    assert plain.space == space
    assert (plain.build, plain.axes) == (Build("host", "x86-64-v3", 128, "float32"), {})
    assert (plain.threads, plain.max_latency, plain.quality.name) == (1, 1.5, "`q {config}`")
    settings = settings_of(plain.study)
    assert (settings.max_params, settings.mha_ffn, settings.cpu) == (26e6, (0.4, 0.6), "x86-64-v3")
    assert (settings.seq_len, settings.precision, settings.seq_lens, settings.precisions) == (128, "float32", (), ())
    axes = [
        "--seq-len",
        "32",
        "16",
        "32",
        "--precision",
        "int8",
        "float32",
        "--max-params",
        "5e6",
        "--mha-ffn",
        "0",
        "9",
    ]
    command_of_both = "q {config} {seq_len} {precision}"
    several = beginning(*axes, "--quality-command", command_of_both, "--threads", "2", "--max-latency", "3", name="t")
    assert several.build == Build("host", None, 32, "int8")  # the first of each is the reference's
    assert several.axes == {"seq_len": (32, 16), "precision": ("int8", "float32")}
    assert (several.space.max_params, several.space.mha_ffn) == (5e6, (0.0, 9.0))
    assert (several.threads, several.max_latency) == (2, 3.0)


def test_a_limit_that_can_never_be_met_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (
        ("--trials", "0"), ("--repeats", "0"), ("--workers", "-1"), ("--threads", "0"), ("--seq-len", "0"),
        ("--time-limit", "0"), ("--time-limit", "-3"), ("--time-limit", "inf"), ("--time-limit", "nan"),
    ):  # fmt: skip
        assert main(["search", "--study", "s", "--storage", "sqlite:///none.db", f"{option}={value}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {option} {value}: ")
        assert error.count("\n") == 1
    assert not Path("none.db").exists()


def test_a_search_whose_time_is_up_has_done_what_it_was_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "work", lambda args: time.sleep(60))
    assert main(["search", "--study", "s", "--storage", "sqlite:///none.db", "--time-limit", "0.2"]) == 0
    assert capsys.readouterr().err.startswith("after 0.2 s the time is up: what was measured is kept")


def test_a_study_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """An address of SQLAlchemy's has ways of its own to say what such characters are: there, or refused in a line."""
    place = tmp_path / NASTY
    place.mkdir()
    settings = Settings("tiny", "x", "y", 16, 1, "local", "q", 1.0, (0.2, 3.0), 5.0)
    journal, database = f"journal:{place}/s.log", f"sqlite:///{place}/s.db"
    join_study("s", journal, settings, None)
    assert load_study("s", journal).user_attrs["settings"]["space"] == "tiny"
    with pytest.raises(TuneError, match="cannot be opened") as refused:
        join_study("s", database, settings, None)
    assert describe(refused.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == [NASTY]
    assert {path.name.partition(".")[0] for path in place.iterdir()} == {"s"}


@dataclass
class Patient:
    """A search whose candidate takes for ever."""

    study: optuna.Study
    space = SimpleNamespace(reference="ours")
    reference_ms = 2.0

    def evaluate(self, trial: optuna.Trial) -> Any:
        trial.suggest_int("x", 0, 10**6)
        os.kill(os.getpid(), SENT[0])
        time.sleep(600)


SENT: list[signal.Signals] = []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_search_asked_to_end_leaves_its_candidate_to_the_next(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"journal:{tmp_path}/s.log"
    optuna.create_study(study_name="s", storage=open_storage(address), directions=DIRECTIONS)

    @contextmanager
    def beginning(args: Any) -> Any:
        yield Patient(load_study("s", address))

    monkeypatch.setattr(command, "begun", beginning)
    SENT[:] = [number]
    given = ["search", "--study", "s", "--storage", address, "--worker", "w"]
    last = last_words(lambda: main(given), number, tmp_path / "said")
    word = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert last == f"{word}: what was measured is kept; the same command goes on from there"
    study = load_study("s", address)
    assert study.user_attrs["worker:w"]["seen"] == 0.0
    with Worker(study, "next") as worker:
        assert worker.take_over() == [0]


@dataclass
class Told:
    """A search whose candidates come to what `outcomes` says, one after the other."""

    study: optuna.Study
    outcomes: list[Any]

    def evaluate(self, trial: optuna.Trial) -> tuple[float, float, float]:
        trial.suggest_int("x", 0, 10**6)
        trial.set_user_attr("predicted_ms", 1.0)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return (1.0, 2.0, 3.0)


def looping(outcomes: list[Any], trials: int = 2) -> tuple[optuna.Study, Exception | None]:
    study = optuna.create_study(directions=DIRECTIONS)
    with Worker(study, "w") as worker:
        try:
            loop(Told(study, outcomes), worker, trials)  # type: ignore[arg-type]
        except Exception as error:
            return study, error
    return study, None


def test_candidates_that_come_to_nothing_for_ever_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PATIENCE", 3)
    pruned, failed = TrialPruned("too wide"), TuneError("no number")
    study, error = looping([pruned, failed, None, failed, pruned, None])  # a good one between: patience begins anew
    assert error is None
    assert [t.state.name for t in study.trials] == ["PRUNED", "FAIL", "COMPLETE", "FAIL", "PRUNED", "COMPLETE"]
    assert [t.values for t in study.trials if t.state == TrialState.COMPLETE] == [[1.0, 2.0, 3.0]] * 2
    assert (study.trials[0].user_attrs["pruned"], study.trials[1].user_attrs["failed"]) == ("too wide", "no number")
    study, error = looping([None, pruned, failed, pruned, None])
    assert str(error).startswith("no candidate in 3 was measured: widen")
    assert len(study.trials) == 4


def test_a_good_candidate_between_busy_moments_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "BUSY_TRIALS", 2)
    busy = Unmeasurable("others compute")
    assert looping([busy, None, busy, None])[1] is None
    study, error = looping([busy, busy, None, None])
    assert str(error).startswith("2 trials in a row could not be measured, the last: others compute")
    assert all(t.user_attrs.get("unmeasured") for t in study.trials if t.state == TrialState.FAIL)


@pytest.mark.parametrize("error", [
    RunnerError("the phone is gone"), sqlite3.OperationalError("database or disk is full"),
    OSError(errno.ENOSPC, "No space left on device"),
], ids=["device", "database", "disk"])  # fmt: skip
def test_a_candidate_that_the_device_or_the_disk_failed_is_left_to_the_next(error: Exception) -> None:
    cause = error if isinstance(error, RunnerError) else TuneError("cannot be written")
    cause.__cause__ = None if cause is error else error
    study, raised = looping([cause])
    assert raised is cause
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert study.trials[1].user_attrs["retry_of"] == 0
    assert "failed" not in study.trials[0].user_attrs


def test_what_a_worker_says_when_it_repeats(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, asked = optuna.create_study(directions=DIRECTIONS), []
    search = SimpleNamespace(
        study=study, space=SimpleNamespace(reference="ours"), reference_ms=2.0,
        repeat_qualities=lambda seeds: asked.append(seeds) or [4], measure_front_again=lambda: [7],
    )  # fmt: skip

    @contextmanager
    def beginning(args: Any) -> Any:
        yield search

    monkeypatch.setattr(command, "begun", beginning)
    monkeypatch.setattr(command, "loop", lambda search, worker, trials: asked.append(trials))
    assert command.work(SimpleNamespace(worker=None, runner="adb", trials=9, repeats=3)) == 0  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert asked == [9, 3]
    assert lines[0] == f"{command.default_name()}: ours takes 2.00 ms on adb"
    assert lines[1:] == ["trial 4: its quality by 3 seeds", "trial 7: on the front, measured again"]
