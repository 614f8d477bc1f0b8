"""The adb runner against a stand-in that speaks adb's command line and runs what is pushed: real arm64 code."""

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from compile.errors import CompileError
from compile.running.load import read_manifest
from compile.running.runners.base import RunFailed, RunnerError
from compile.running.samples import full_sample
from compile.running.verify import verify
from tune.runners import adb
from tune.runners.adb import AdbRunner


def attach(devices: Path, serial: str, degrees: float = 30.0, abi: str = "arm64-v8a") -> Path:
    device = devices / serial
    (device / "tmp").mkdir(parents=True)
    (device / "properties").write_text(f"ro.product.cpu.abi={abi}\nro.product.model=Phone {serial}\n")
    (device / "cpu" / "cpu4" / "cpufreq").mkdir(parents=True)
    (device / "cpu" / "cpu4" / "cpufreq" / "scaling_governor").write_text("schedutil\n")
    for index, (kind, value) in enumerate((("battery", 99.0), ("cpu-0-0", degrees))):
        zone = device / "thermal" / f"thermal_zone{index}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(kind)
        (zone / "temp").write_text(str(int(degrees * 1000 if kind != "battery" else value * 1000)))
    return device


def test_a_library_runs_on_the_device_and_its_outputs_come_back(
    fake_adb: Path, linear_library: Callable, agrees: Callable
) -> None:
    device = attach(fake_adb, "A1")
    folder = linear_library("arm64-android")
    sample = full_sample(read_manifest(folder))
    with AdbRunner(cores=[4, 6]) as runner:
        for _ in range(2):
            measurement, outputs = runner.run(folder, sample, threads=2, runs=3)
            assert agrees(sample, outputs)
    assert len(measurement.samples_ms) == 3
    assert min(measurement.samples_ms) > 0
    assert (measurement.device, measurement.cores, measurement.threads) == ("Phone A1 (A1)", (4, 6), 2)
    assert measurement.temperature == 30.0  # the processor's, not the battery's
    assert measurement.governor == "schedutil"  # the first core's
    assert not measurement.estimate
    assert (device / "masks").read_text().split() == ["50", "50"]
    pushed = [line for line in (device / "log").read_text().splitlines() if line.startswith("push")]
    assert sum(".so" in line for line in pushed) == 1  # the library went there once
    assert not any((device / "tmp").iterdir())  # and nothing stays


def test_a_library_is_verified_on_the_device(fake_adb: Path, linear_library: Callable, linear_model: Path) -> None:
    attach(fake_adb, "A1")
    folder = linear_library("arm64-android")
    with AdbRunner() as runner:
        (result,) = verify(folder, onnx.load(linear_model), runner)
        assert (result.where, result.samples, result.passed) == ("Phone A1 (A1)", 3, True)
        assert result.error < 1e-5
        other = onnx.load(linear_model)
        other.graph.initializer[1].raw_data = bytes(len(other.graph.initializer[1].raw_data))
        with pytest.raises(CompileError, match=r"verification failed on Phone A1 \(A1\): error"):
            verify(folder, other, runner)


def test_devices_share_the_work_and_one_that_is_unplugged_is_left_out(fake_adb: Path, linear_library: Callable) -> None:
    folder = linear_library("arm64-android")
    for serial in ("A1", "B2"):
        attach(fake_adb, serial)
    with AdbRunner() as runner:
        assert runner.slots == 2
        (fake_adb / "A1" / "unplug").write_text("3")
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda _: runner.measure(folder, runs=2), range(4)))
        assert [m.device for m in results].count("Phone B2 (B2)") >= 3
        (fake_adb / "B2" / "unplug").write_text("2")
        with pytest.raises(RunnerError, match=r"device B2 is gone \(adb: device 'B2' not found\): plug it in"):
            runner.measure(folder, runs=2)


def test_nobody_waits_for_ever_once_the_last_device_is_gone(fake_adb: Path, linear_library: Callable) -> None:
    """However many wait, and those that come later."""
    folder = linear_library("arm64-android")
    for serial in ("A1", "B2"):
        attach(fake_adb, serial)
    with AdbRunner() as runner:
        for serial in ("A1", "B2"):
            (fake_adb / serial / "unplug").write_text("0")
        pool = ThreadPoolExecutor(8)
        waiting = [pool.submit(runner.measure, folder, runs=2) for _ in range(8)]
        pool.shutdown(wait=False)
        try:
            for each in waiting:
                with pytest.raises(RunnerError, match=r"gone.*plug"):
                    each.result(timeout=60)
        finally:  # or this process waits for those that wait
            for _ in waiting:
                runner._free.put(None)
        with pytest.raises(RunnerError, match="every device is gone"):
            runner.measure(folder, runs=2)


def test_a_hot_device_is_waited_for(fake_adb: Path, linear_library: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    device = attach(fake_adb, "A1", degrees=60)
    waits: list[float] = []

    def cool_down(seconds: float) -> None:
        waits.append(seconds)
        (device / "thermal" / "thermal_zone1" / "temp").write_text(str(60000 - 7500 * len(waits)))

    monkeypatch.setattr(adb, "sleep", cool_down)
    with AdbRunner(cool=45.0) as runner:
        assert runner.measure(linear_library("arm64-android"), runs=1).temperature == 37.5
        assert len(waits) == 3  # at 60, 52.5 and 45 °C: below the limit, not at it
        monkeypatch.setattr(adb, "GIVE_UP", -1.0)
        (device / "thermal" / "thermal_zone1" / "temp").write_text("70000")
        with pytest.raises(RunnerError, match="still at 70 °C: let it cool, or raise --cool"):
            runner.measure(linear_library("arm64-android"), runs=1)


def test_what_devices_hold_is_removed_from_all_that_are_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(command: str) -> None:
        raise RunnerError("device A1 is gone")

    removed: list[str] = []
    monkeypatch.setattr(adb.AdbRunner, "__init__", lambda self: None)
    runner: Any = AdbRunner()
    runner._work = SimpleNamespace(close=lambda: removed.append("work"))
    shells = {"/A": gone, "/B": removed.append, "/C": removed.append}
    runner._phones = [SimpleNamespace(folder=folder, shell=shell) for folder, shell in shells.items()]
    runner.close()
    assert removed == ["rm -rf /B", "rm -rf /C", "work"]


def answering(monkeypatch: pytest.MonkeyPatch, status: int, out: str = "", err: str = "") -> adb.Phone:
    done = subprocess.CompletedProcess([], status, out, err)
    monkeypatch.setattr(adb.subprocess, "run", lambda *_, **__: done)
    return adb.Phone("adb", "A1")


@pytest.mark.parametrize(
    ("status", "out", "err", "error", "said"),
    [
        (1, "", "adb: device offline", adb.Unplugged, r"device A1 is gone \(adb: device offline\): plug it in"),
        (1, "", "warning\nerror: closed", adb.Unplugged, r"gone \(error: closed\)"),
        (1, "", "adb: error: No space left on device", RunnerError, "adb shell failed: adb: error: No space left"),
        (1, "only on stdout", "", RunnerError, "adb shell failed: only on stdout"),
        (7, "", "", RunnerError, "adb shell failed: status 7"),
        (0, "half a li", "", adb.Unplugged, "cut off in the middle of a command"),
        (0, "status=", "", adb.Unplugged, "cut off in the middle of a command"),
    ],
)
def test_whose_fault_a_failing_adb_is(
    status: int, out: str, err: str, error: type, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunnerError, match=said) as caught:
        answering(monkeypatch, status, out, err).shell("true")
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("printed", "degrees"),
    [
        ("battery 99000\ncpu-0 41000\nCPU-1 43500\ngpu 60000", 43.5),  # of processors the hottest
        ("battery 30000\nskin 35000", 35.0),  # none is named so: of all
        ("modem -5000", -5.0),
        ("cpu-0 \nbroken", None),
        ("", None),
    ],
)
def test_the_temperature_is_the_hottest_of_the_processors(
    printed: str, degrees: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = answering(monkeypatch, 0, f"{printed}\nstatus=0\n")
    assert phone.temperature() == degrees
    waits: list[float] = []
    monkeypatch.setattr(adb, "sleep", waits.append)
    assert phone.wait_until_cool((degrees or 0.0) + 0.5) == degrees  # as cool as wanted: at once
    assert waits == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (124, "hung: no result after 5 s"), (139, "crashed with signal 11"), (2, "failed: no symbol"),
        (128, "failed: no symbol"),
    ],
)  # fmt: skip
def test_what_a_library_that_fails_on_the_device_said_last(
    status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb.AdbRunner, "__init__", lambda self: None)
    runner: Any = AdbRunner()
    runner.cool, runner.cores = None, ()
    (tmp_path / "m.so").write_bytes(b"m")
    phone: Any = SimpleNamespace(
        folder="/A", pushed=set(), cores=(0,), call_adb=lambda *_, **__: None, wait_until_cool=lambda cool: None,
        shell=lambda command, **_: (status, "a warning\nno symbol\n"),
    )  # fmt: skip
    with pytest.raises(RunFailed, match=f"^{said}$"):
        runner._execute_on(phone, tmp_path / "m.so", "m", b"", 1, 1, 5.0)


def test_a_damaged_library_is_the_librarys_fault(fake_adb: Path, linear_library: Callable, tmp_path: Path) -> None:
    attach(fake_adb, "A1")
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF" + bytes(100))
    manifest = read_manifest(linear_library("arm64-android"))
    with AdbRunner() as runner, pytest.raises(RunFailed, match="not a library for arm64"):
        runner.run_library(broken, manifest, full_sample(manifest), 1, 1, 20.0)


def test_adb_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunnerError, match="adb was not found: install Android's platform tools"):
        AdbRunner()


@pytest.mark.parametrize(
    ("states", "wanted", "message"),
    [
        ({}, None, "no Android device is attached: plug one in"),
        ({"A1": "unauthorized"}, None, "no Android device is attached; A1 is unauthorized"),
        ({"A1": "unauthorized"}, ["A1"], "--serial A1: the device is unauthorized: allow USB debugging"),
        ({"A1": "device"}, ["C3"], "--serial C3: the device is absent"),
    ],
)
def test_no_device_that_can_be_used(fake_adb: Path, states: dict, wanted: list[str] | None, message: str) -> None:
    for serial, state in states.items():
        (attach(fake_adb, serial) / "state").write_text(state)
    with pytest.raises(RunnerError, match=message):
        AdbRunner(wanted)


def test_a_device_of_another_architecture_is_refused(fake_adb: Path) -> None:
    attach(fake_adb, "A1", abi="armeabi-v7a")
    with pytest.raises(RunnerError, match="device A1 is armeabi-v7a: only arm64-v8a"):
        AdbRunner()
