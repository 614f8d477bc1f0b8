"""Several workers on one study: nothing shared but the storage, and any of them may die."""

import argparse
import ctypes
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState, create_trial

from pocketbert.command import exit_status
from tune.errors import TuneError
from tune.search import command
from tune.search.command import TimeUp, loop, spawn, time_limit
from tune.search.latency import Unmeasurable
from tune.search.storage import _database, load_study, open_storage
from tune.search.study import Settings, join_study
from tune.search.workers import Worker, _age, alive

PYTHON = sys.executable
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
        loop(PatientSearch(study, seconds), worker, trials)


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


SETTINGS = Settings("tiny", "x", "y", 16, 1, "local", "q", 1.0, (0.2, 3.0), 5.0)


def join_at_once(address: str, barrier) -> None:
    barrier.wait(60)
    study = join_study("s", address, SETTINGS, None)
    assert study.user_attrs["settings"]["space"] == "tiny"
    study.ask()


@pytest.mark.parametrize("kind", ["sqlite:///{}/{}.db", "journal:{}/{}.log"], ids=["sqlite", "journal"])
def test_twenty_fresh_studies_lose_none_of_the_workers_that_begin_them(kind, tmp_path):
    for attempt in range(20):
        address, barrier = kind.format(tmp_path, attempt), FORK.Barrier(2)
        workers = [FORK.Process(target=join_at_once, args=(address, barrier)) for _ in range(2)]
        for worker in workers:
            worker.start()
        assert [ended(worker) for worker in workers] == [0, 0], attempt
        assert len(load_study("s", address).trials) == 2


@pytest.fixture
def spawned(monkeypatch, tmp_path):
    """spawned(program, workers, limit): the exit status of `spawn`, and the names of workers that ran `program`."""

    @contextmanager
    def nothing_to_prepare(args):
        yield

    def run(program: str, workers: int = 2, limit: float | None = None):
        script = tmp_path / "worker.py"
        head = "import os, pathlib, signal, sys, time\nname = sys.argv[-1]"
        script.write_text(f"{head}\npathlib.Path({str(tmp_path)!r}, name).write_text(' '.join(sys.argv))\n{program}\n")
        (tmp_path / "python").write_text(f'#!/bin/sh\nexec {PYTHON} {script} "$@"\n')
        monkeypatch.setattr(command, "begun", nothing_to_prepare)
        monkeypatch.setattr(command.sys, "executable", str(tmp_path / "python"))
        (tmp_path / "python").chmod(0o755)
        started = time.monotonic()
        args = argparse.Namespace(given=["search"], workers=workers, worker="w", time_limit=limit, started=started)
        with time_limit(limit, started):
            status = spawn(args)
        return status, sorted(path.name for path in tmp_path.glob("w-*"))

    return run


def test_a_worker_that_is_killed_is_replaced_by_one_of_another_name(spawned, capsys):
    status, names = spawned("if name == 'w-1': os.kill(os.getpid(), signal.SIGKILL)")
    assert (status, names) == (0, ["w-1", "w-2", "w-3"])
    assert "worker w-1 died (SIGKILL): w-3 takes its place" in capsys.readouterr().err


def test_workers_that_always_die_are_not_replaced_for_ever(spawned, capsys):
    status, names = spawned("sys.exit(1)")
    assert (status, len(names)) == (1, 8)  # each three times
    assert capsys.readouterr().err.count("died (status 1), as 6 before it") == 2


def test_a_worker_that_says_what_is_wrong_is_not_replaced(spawned):
    assert spawned("sys.exit(2 if name == 'w-2' else 0)") == (2, ["w-1", "w-2"])


def test_the_command_waits_five_seconds_longer_than_its_workers(spawned, monkeypatch):
    rung = []
    monkeypatch.setattr(command, "left_of", lambda seconds, since: 40.0)
    monkeypatch.setattr(command.signal, "setitimer", lambda which, seconds: rung.append(seconds))
    assert spawned("", limit=45.0)[0] == 0
    assert rung == [40.0, 45.0, 0]


def test_workers_time_begins_with_the_commands_and_they_stop_with_it(spawned, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "GRACE", 0.5)
    started = time.monotonic()
    with pytest.raises(TimeUp):
        spawned("time.sleep(600)", limit=2.0)
    assert time.monotonic() - started < 30
    given = (tmp_path / "w-1").read_text()
    assert started <= float(given.split("--since=")[1].split()[0]) <= time.monotonic() - 2.0


@dataclass
class LateSearch(PatientSearch):
    """The time is up while a trial runs, however long the machine took to begin it."""

    def evaluate(self, trial):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return super().evaluate(trial)


def test_what_passed_since_the_command_began_is_part_of_the_time_limit():
    now = time.monotonic()
    assert 0 < command.left_of(45.0, now - 40.0) <= 5.0
    assert command.left_of(45.0, now - 100.0) == 0.1
    with pytest.raises(TimeUp), time_limit(3600.0, now - 3600.0):
        time.sleep(60)


class DestroyedSlowly:
    def __del__(self):
        time.sleep(60)


def test_a_time_that_is_up_while_an_object_is_destroyed_is_not_forgotten():
    started = time.monotonic()
    with pytest.raises(TimeUp), time_limit(0.2, started):
        time.sleep(60 if DestroyedSlowly() else 0)
    assert time.monotonic() - started < 30


def test_the_time_limit_ends_the_trial_that_runs_and_leaves_it_to_another(address):
    study, started = load_study("s", address), time.monotonic()
    with Worker(study, "w") as worker, pytest.raises(TimeUp), time_limit(3600.0, started):
        loop(LateSearch(study, 600), worker, 5)
    assert time.monotonic() - started < 30
    assert states(address) == [TrialState.FAIL, TrialState.WAITING]


def command_of_a_worker(address: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(exit_status(lambda _: work(address, "stopped", 5, 600), argparse.Namespace(debug=False), "goes on"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_worker_asked_to_end_leaves_its_trial_to_the_next(number, address):
    process = FORK.Process(target=command_of_a_worker, args=(address,))
    process.start()
    until(lambda: any("predicted_ms" in trial.user_attrs for trial in load_study("s", address).trials))
    os.kill(process.pid, number)
    assert ended(process) == 128 + number
    study = load_study("s", address)
    assert study.user_attrs["worker:stopped"]["seen"] == 0.0  # at once, and not after its silence
    with Worker(study, "next") as worker:
        assert worker.take_over() == [0]
    assert states(address) == [TrialState.FAIL, TrialState.WAITING]


@dataclass
class BusySearch(PatientSearch):
    """No trial can be measured."""

    def evaluate(self, trial):
        trial.suggest_int("x", 0, 10**6)
        raise Unmeasurable("the machine was busy")


def test_trials_that_cannot_be_measured_are_tried_again_and_at_last_the_search_stops(address):
    study = load_study("s", address)
    with Worker(study, "w") as worker, pytest.raises(TuneError, match="6 trials in a row could not be measured"):
        loop(BusySearch(study, 0), worker, 5)
    trials = study.trials
    assert [t.user_attrs.get("attempt", 1) for t in trials if t.state == TrialState.FAIL] == [1, 2, 3, 1, 2, 3]
    assert trials[0].params == trials[1].params == trials[2].params
    assert all(t.user_attrs["unmeasured"] == "the machine was busy" for t in trials if t.state == TrialState.FAIL)


def test_a_worker_beats_while_it_works_and_after_a_moment_without_its_storage(address, monkeypatch):
    study = load_study("s", address)

    def seen() -> float:
        return load_study("s", address).user_attrs["worker:w"]["seen"]

    with Worker(study, "w", silence=0.4) as worker:
        begun = seen()
        until(lambda: seen() > begun, 20)
        sign, failures = worker._sign, []

        def fail(when: float) -> None:
            failures.append(when)
            raise OSError("the storage is away")

        monkeypatch.setattr(worker, "_sign", fail)
        until(lambda: len(failures) >= 2, 20)
        monkeypatch.setattr(worker, "_sign", sign)
        later = seen()
        until(lambda: seen() > later, 20)
    assert seen() == 0.0


def test_a_worker_is_heard_of_several_times_before_it_would_count_as_dead(monkeypatch):
    waits = []
    for silence in (0.4, 4.0, 120.0, 600.0):
        worker = Worker(optuna.create_study(), "w", silence)
        monkeypatch.setattr(worker._stop, "wait", lambda seconds: waits.append(seconds) or True)
        worker._beat()
    assert waits == [0.1, 1.0, 10.0, 10.0]


def test_a_full_disk_under_sqlite_is_one_line(tmp_path, capsys):
    from pocketbert.command import exit_status

    address = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="s", storage=open_storage(address))

    engine = study._storage._backend.engine
    sqlalchemy.event.listen(
        engine, "connect", lambda new, _: new.execute("PRAGMA max_page_count = 1")
    )  # as many as now
    engine.dispose()

    def fill(*_) -> None:
        for number in range(100):
            study.set_user_attr(f"a{number}", "x" * 2000)

    assert exit_status(fill, argparse.Namespace(debug=False), "") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: disk full")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("status", "reason"), [(0, "status 0"), (1, "status 1"), (-9, "SIGKILL"), (-1, "SIGHUP")])
def test_how_a_process_ended_in_words(status, reason):
    assert command.exit_reason(status) == reason


def test_a_trial_is_as_old_as_its_beginning():
    begun = datetime.now() - timedelta(seconds=100)
    assert _age(create_trial(state=TrialState.RUNNING, value=None)) < 60
    trial = create_trial(state=TrialState.RUNNING, value=None)
    trial.datetime_start = begun
    assert 99 < _age(trial) < 160
    trial.datetime_start = None
    assert _age(trial) == float("inf")


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


CABLES = "198.18"  # a network that RFC 2544 keeps for tests


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("sqlite:///s.db", {"connect_args": {"timeout": 60}}),  # while another worker writes
        ("postgresql://host/s", {"pool_pre_ping": True}),  # a server may have closed the connection meanwhile
    ],
)
def test_a_storage_that_others_use_is_waited_for(address, options, monkeypatch):
    monkeypatch.setattr("optuna.storages.RDBStorage", lambda *given: given)
    assert _database(address) == (address, options)


PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(scope="module")
def server():
    """The address of a PostgreSQL server of our own, without its database."""
    if not (PROGRAMS and os.getuid() == 0):
        pytest.skip("needs PostgreSQL (Debian package postgresql) and root, to run it as its user")
    pytest.importorskip("psycopg")
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        shutil.chown(folder, "postgres")
        options = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": folder}
        options |= {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        data, settings = f"{folder}/data", f"-p {port} -h 0.0.0.0 -k {folder} -F"
        subprocess.run([PROGRAMS[-1] / "initdb", "-D", data, "-A", "trust", "-N", "-U", "search"], **options)
        with Path(data, "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {CABLES}.0.0/16 trust\n")
        subprocess.run([PROGRAMS[-1] / "pg_ctl", "-D", data, "-w", "-o", settings, "start"], **options)
        try:
            yield f"postgresql://search@127.0.0.1:{port}"
        finally:
            subprocess.run([PROGRAMS[-1] / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **options)


def database(server: str, name: str) -> str:
    engine = sqlalchemy.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


@pytest.fixture
def hosts():
    """hosts(name): a host of that name, as a network namespace, and the address of this one's end of the cable."""
    made = []

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def plugged(name: str) -> tuple[str, str]:
        space, cable = f"pocketbert-{os.getpid()}-{name}", f"pb{os.getpid()}-{len(made)}"
        here, there = (f"{CABLES}.{os.getpid() % 256}.{4 * len(made) + end}" for end in (1, 2))
        ip("netns", "add", space)
        made.append(space)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("address", "add", f"{here}/30", "dev", cable)
        ip("-n", space, "address", "add", f"{there}/30", "dev", "eth0")
        ip("link", "set", cable, "up")
        ip("-n", space, "link", "set", "eth0", "up")
        return space, here

    try:
        plugged("nobody")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs network namespaces: {error}")
    yield plugged
    for space in made:
        ip("netns", "delete", space)  # and its cable


def on_host(space: str, address: str, name: str, seconds: float) -> None:
    """A worker on a host of its own: another network, another name."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{space}") as network:
        assert libc.setns(network.fileno(), 0x40000000) == 0  # CLONE_NEWNET
    assert libc.unshare(0x04000000) == 0  # CLONE_NEWUTS
    socket.sethostname(f"host-of-{name}")
    work(address, name, 8, seconds)


def test_workers_on_several_hosts_share_a_postgresql_server_and_one_is_killed(server, hosts):
    address = database(server, "several")
    optuna.create_study(study_name="s", storage=open_storage(address), directions=["maximize", "minimize", "minimize"])

    def start_on_host(name, seconds):
        space, end_of_cable = hosts(name)
        process = FORK.Process(target=on_host, args=(space, address.replace("127.0.0.1", end_of_cable), name, seconds))
        process.start()
        return process

    killed = start_on_host("killed", 600)
    until(lambda: TrialState.RUNNING in states(address) and load_study("s", address).trials[-1].params)
    others = [start_on_host(name, 0.8) for name in ("one", "two")]  # so long that the later one takes part
    killed.kill()
    killed.join()
    assert [ended(process) for process in others] == [0, 0]
    seen = {name: load_study("s", address).user_attrs[f"worker:{name}"]["host"] for name in ("killed", "one", "two")}
    assert seen == {name: f"host-of-{name}" for name in seen}
    trials = load_study("s", address).trials
    assert trials[0].state == TrialState.FAIL  # found out by its silence, as no one can look for it from another host
    (again,) = [t for t in trials if t.user_attrs.get("retry_of") == 0]
    assert (again.state, again.params) == (TrialState.COMPLETE, trials[0].params)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    assert 8 <= len(complete) <= 9
    assert {t.user_attrs["worker"] for t in complete} == {"one", "two"}


def test_workers_that_begin_a_study_on_a_postgresql_server_at_once_lose_none(server):
    for attempt in range(3):
        address, barrier = database(server, f"fresh{attempt}"), FORK.Barrier(3)
        starting = [FORK.Process(target=join_at_once, args=(address, barrier)) for _ in range(3)]
        for process in starting:
            process.start()
        assert [ended(process) for process in starting] == [0, 0, 0]
        assert len(load_study("s", address).trials) == 3
