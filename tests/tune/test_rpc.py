"""The rpc runner on a tracker and two servers of this machine, one of which is killed in the middle."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from compile.running.load import read_manifest
from compile.running.runners.base import Device, Execution, RunFailed, RunnerError
from compile.running.samples import full_sample
from tune.runners.rpc import RpcRunner, refuse_beyond_loopback

KEY = "rack-of-the-test"


def start(*arguments: str) -> tuple[subprocess.Popen, str]:
    """A process of the rack in a group of its own, and where it listens."""
    command = [sys.executable, "-m", "tune.runners.rack", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()[-1]


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def test_servers_of_another_key_are_others_and_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"server_info": [{"key": f"server:{key}"} for key in ("mine", "mine-too", "others", "mine")]}
    monkeypatch.setattr(RpcRunner, "_connect", lambda self: SimpleNamespace(summary=lambda: known))
    assert RpcRunner("127.0.0.1:9190", "mine").slots == 2
    with pytest.raises(RunnerError, match=r"has no server 'min' \(mine, mine-too, others\): start one"):
        RpcRunner("127.0.0.1:9190", "min")


def test_a_server_runs_on_the_cores_that_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tvm

    from tune.runners import rack as served

    asked: list[Any] = []

    @contextmanager
    def runner(cores: Any, program: Path) -> Any:
        asked.append(cores)
        yield SimpleNamespace(execute=lambda *_: Execution((1.5,), b"out", Device("a CPU", (3,)), (1.0,)))

    monkeypatch.setattr(served, "LocalRunner", runner)
    monkeypatch.setattr(tvm, "get_global_func", lambda name: lambda file: str(tmp_path / file))
    (tmp_path / "inputs").write_bytes(b"")
    about = {"library": {"name": "m", "target": "x86_64-linux", "cpu": "x86-64-v3"}, "threads": 1, "runs": 1}
    for cores in ([3, 5], []):
        answer = json.loads(served.run_order(json.dumps(about | {"timeout": 1.0, "cores": cores}), tmp_path / "p"))
        assert (answer["samples_ms"], answer["cpu_ms"], answer["device"]["cores"]) == ([1.5], [1.0], [3])
    assert asked == [[3, 5], None]
    assert (tmp_path / "outputs").read_bytes() == b"out"


@pytest.mark.parametrize(
    ("error", "said"), [(RuntimeError("Traceback:\n  socket closed\n"), "  socket closed"), (EOFError(), "EOFError")]
)
def test_servers_that_are_lost_again_and_again_are_told_of(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def lose(self: RpcRunner, seconds: float) -> None:
        asked.append(seconds)
        raise error

    monkeypatch.setattr(RpcRunner, "_servers", lambda self: 1)
    monkeypatch.setattr(RpcRunner, "_request", lose)
    facts: Any = SimpleNamespace(name="m", target="x86_64-linux", cpu="x86-64-v3")
    with pytest.raises(RunnerError, match=rf"^servers 'k' at 127\.0\.0\.1:9 were lost 5 times \({said}\): look"):
        RpcRunner("127.0.0.1:9", "k").execute(tmp_path / "m.so", facts, b"", 1, 1, 7.0)
    assert asked == [7.0 + 60.0] * 5


@pytest.fixture(scope="module")
def rack() -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The tracker's address, and the servers."""
    tracker, address = start("tracker", "--port", str(unused_port()))
    servers: list[Any] = [None, None]

    def serve(index: int) -> None:
        servers[index] = start("server", "--tracker", address, "--key", KEY, "--port", str(unused_port()))[0]

    threads = [threading.Thread(target=serve, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield address, servers
    for process in (tracker, *servers):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def connect(address: str, wait: float = 60.0) -> RpcRunner:
    """Servers need a moment to make themselves known."""
    deadline = time.monotonic() + 120
    while True:
        try:
            runner = RpcRunner(address, KEY, wait=wait)
            if runner.slots == 2 or time.monotonic() > deadline:
                return runner
        except RunnerError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def test_sockets_of_the_rack_listen_on_loopback_alone(rack: tuple[str, list[subprocess.Popen]]) -> None:
    """All that the tracker's and the servers' processes listen on, the servers' children too."""
    address, servers = rack
    assert address.startswith("127.0.0.1:")
    connections = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid]
    groups = {process.pid for process in servers}
    ours = [c for c in connections if os.getpgid(c.pid) in groups or c.laddr.port == int(address.rpartition(":")[2])]
    assert len(ours) >= 3
    assert {c.laddr.ip for c in ours} == {"127.0.0.1"}


def test_a_session_goes_on_when_a_server_is_killed(
    rack: tuple[str, list[subprocess.Popen]], linear_library: Callable, agrees: Callable, tmp_path: Path
) -> None:
    address, servers = rack
    assert address.startswith("127.0.0.1:")
    folder = linear_library("host")
    sample = full_sample(read_manifest(folder))
    runner = connect(address, wait=150.0)  # a server makes a process for each session, which takes its time
    assert runner.slots == 2
    measurement, outputs = runner.run(folder, sample, runs=3)
    assert agrees(sample, outputs)
    assert len(measurement.samples_ms) == 3
    assert measurement.cores == tuple(sorted(os.sched_getaffinity(0)))

    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    with pytest.raises(RunFailed, match="too short for a library"):
        runner.run_library(broken, read_manifest(folder), sample, 1, 1, 20.0)

    killer = threading.Timer(0.5, os.killpg, (servers[0].pid, signal.SIGKILL))
    killer.start()
    for _ in range(3):  # whichever server they begin on
        assert agrees(sample, runner.run(folder, sample, runs=2000)[1])
    killer.join()
    servers[0].wait()
    assert agrees(sample, runner.run(folder, sample, runs=3)[1])

    os.killpg(servers[1].pid, signal.SIGKILL)
    servers[1].wait()
    runner.wait = 5.0
    with pytest.raises(RunnerError, match=f"has no server '{KEY}'|was free for 5 s"):
        runner.run(folder, sample, runs=3)


RACK = [sys.executable, "-m", "tune.runners.rack"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["server", "--host", "0.0.0.0", "--key", "mine"],
            "--host 0.0.0.0: TVM's RPC runs code for whoever reaches it",
        ),
        (["tracker", "--host", "::"], "--host ::: TVM's RPC runs code"),
        (["server", "--host", "192.0.2.1"], "ssh -R 9190:127.0.0.1:9190 -L 9090:127.0.0.1:9090"),
        (["server", "--tracker", "192.0.2.1:9190"], "--tracker 192.0.2.1: TVM's RPC runs code"),
        (["server", "--tracker", "9190"], "--tracker 9190: write HOST:PORT"),
        (["server", "--key", ""], "--key '': a name of letters"),
        (["server", "--key", "a:b c"], "--key 'a:b c': a name of letters"),
    ],
)
def test_nothing_listens_beyond_this_machine_and_no_key_is_empty(arguments: list[str], said: str) -> None:
    done = subprocess.run([*RACK, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["é" * 70 + ".x", "no-such-host.invalid"])  # the first is no name at all
def test_a_host_that_is_none_is_said_so(host: str) -> None:
    with pytest.raises(RunnerError, match=f"^--host {host}: there is no such address$"):
        refuse_beyond_loopback("--host", host)


def test_a_runner_goes_to_no_tracker_beyond_this_machine() -> None:
    with pytest.raises(RunnerError, match=r"--tracker 192\.0\.2\.1: TVM's RPC runs code"):
        RpcRunner("192.0.2.1:9190", KEY)
    with pytest.raises(RunnerError, match="--key ''"):
        RpcRunner("127.0.0.1:9190", "")


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*RACK, "tracker", "--port", port], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --port {port}: Address already in use")
    assert done.stderr.count("\n") == 1


def test_the_help_says_what_a_key_is_and_how_to_reach_another_machine() -> None:
    said = subprocess.run([*RACK, "--help"], capture_output=True, text=True, check=True).stdout
    assert "it is no password" in said
    assert "ssh -R 9190:127.0.0.1:9190 -L 9090:127.0.0.1:9090" in said
