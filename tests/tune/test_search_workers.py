"""Several workers on one study: nothing shared but the storage, and any of them may die."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import optuna
import pytest
from optuna.trial import TrialState

from tune.errors import TuneError
from tune.search.command import loop
from tune.search.storage import load_study, open_storage
from tune.search.workers import Worker, alive

FORK = multiprocessing.get_context("fork")  # everything is imported already


@dataclass
class PatientSearch:
    """Stands in for tune.search.candidate.Search and takes as long as the test wants: storage and loop are real."""

    study: optuna.Study
    seconds: float

    def evaluate(self, trial):
        x = trial.suggest_int("x", 0, 10**6)
        trial.set_user_attr("predicted_ms", 1.0)
        time.sleep(self.seconds)
        return float(x), 1.0, 1.0


def work(address: str, name: str, trials: int, seconds: float) -> None:
    study = load_study("s", address)
    with Worker(study, name, silence=2.0) as worker:
        loop(PatientSearch(study, seconds), worker, trials, None)


@pytest.fixture(params=["sqlite:///{}/study.db", "journal:{}/study.log"], ids=["sqlite", "journal"])
def address(request, tmp_path):
    found = request.param.format(tmp_path)
    optuna.create_study(study_name="s", storage=open_storage(found), directions=["maximize", "minimize", "minimize"])
    return found


def start(address: str, name: str, trials: int, seconds: float) -> multiprocessing.Process:
    process = FORK.Process(target=work, args=(address, name, trials, seconds))
    process.start()
    return process


def ended(process: multiprocessing.Process) -> int | None:
    process.join(120)
    return process.exitcode


def states(address: str) -> list[TrialState]:
    return [trial.state for trial in load_study("s", address).trials]


def until(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_what_a_killed_worker_was_at_is_tried_again_and_nothing_else_is_lost(address):
    assert ended(start(address, "first", 5, 0.01)) == 0
    done = {t.number: t.params for t in load_study("s", address).trials}
    killed = start(address, "killed", 7, 600)
    until(lambda: TrialState.RUNNING in states(address) and load_study("s", address).trials[-1].params)
    killed.kill()
    killed.join()
    assert ended(start(address, "second", 7, 0.01)) == 0
    trials = load_study("s", address).trials
    assert {n: trials[n].params for n in done} == done
    assert [t.state for t in trials[5:7]] == [TrialState.FAIL, TrialState.COMPLETE]
    assert trials[6].params == trials[5].params
    assert trials[6].user_attrs["retry_of"] == 5
    assert sum(t.state == TrialState.COMPLETE for t in trials) == 7


def test_two_workers_share_the_work(address):
    workers = [start(address, name, 8, 0.3) for name in ("one", "two")]
    assert [ended(worker) for worker in workers] == [0, 0]
    trials = load_study("s", address).trials
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    assert 8 <= len(complete) <= 9  # both may begin the last
    assert {t.user_attrs["worker"] for t in complete} == {"one", "two"}
    assert len(trials) == len(complete)


def test_a_living_worker_keeps_its_trial_and_its_name(address):
    study = load_study("s", address)
    with Worker(study, "a") as a, Worker(study, "b") as b:
        trial = study.ask()
        trial.set_user_attr("worker", "a")
        assert b.take_over() == []
        with pytest.raises(TuneError, match="--worker a: one of that name"):
            Worker(study, "a").__enter__()
        assert a.take_over() == [trial.number]  # not at it any more: it asks for another
    with Worker(study, "a"):
        pass  # the name is free again


def test_silence_is_death_except_on_this_machine_where_the_process_is_looked_for():
    here = {"seen": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
    assert alive(here, 60)
    assert not alive(here | {"seen": time.time() - 61}, 60)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not alive(here | {"pid": gone.pid}, 60)
    assert alive(here | {"pid": gone.pid, "host": "elsewhere"}, 60)
    assert not alive(None, 60)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sqlite:////no/such/folder/s.db", "cannot be opened"),
        ("journal:/no/such/folder/s.log", "there is no folder"),
        ("no such thing", "cannot be opened"),
        ("postgresql://127.0.0.1:1/s", "cannot be opened"),
    ],
)
def test_a_storage_out_of_reach_is_one_line(address, said):
    with pytest.raises(TuneError, match=said) as caught:
        open_storage(address)
    assert "\n" not in str(caught.value)


def test_a_study_that_is_not_there_names_those_that_are(tmp_path):
    address = f"sqlite:///{tmp_path}/s.db"
    optuna.create_study(study_name="mine", storage=open_storage(address))
    with pytest.raises(TuneError, match="has only mine"):
        load_study("yours", address)
