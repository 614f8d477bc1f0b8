"""The local runner, and the emulated one: what they return, and whose fault a failure is."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compile.errors import CompileError
from compile.linking.link import find_toolchain, run_compiler
from compile.running.load import read_manifest
from compile.running.runners.base import RunFailed, RunnerError
from compile.running.runners.local import LocalRunner
from compile.running.samples import full_sample
from compile.targets import host_target
from tune.runners import emulated
from tune.runners.emulated import EmulatedRunner


def test_a_library_runs_in_a_process_of_its_own(
    local_runner: LocalRunner, linear_library: Callable, agrees: Callable
) -> None:
    folder = linear_library("host")
    sample = full_sample(read_manifest(folder))
    measurement, outputs = local_runner.run(folder, sample, threads=2, runs=5)
    assert agrees(sample, outputs)
    assert len(measurement.samples_ms) == 5
    assert (measurement.threads, measurement.estimate) == (2, False)
    assert measurement.cores == tuple(sorted(os.sched_getaffinity(0)))


def test_cores_are_those_that_this_process_may_use(local_runner: LocalRunner, linear_library: Callable) -> None:
    core = max(os.sched_getaffinity(0))
    with LocalRunner([core], local_runner.program) as runner:
        assert runner.measure(linear_library("host"), runs=1).cores == (core,)
    with pytest.raises(RunnerError, match="--cores 4096: this process may use"):
        LocalRunner([4096])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("__builtin_trap(); return 0;", "crashed with signal 4"),
        ("for (volatile int i = 0;; i++) {} return 0;", "hung: no result after 2 s"),
        ("return 0;", "failed: "),  # no functions: the program itself crashes or refuses
    ],
)
def test_a_library_that_misbehaves_takes_nothing_with_it(
    body: str, message: str, local_runner: LocalRunner, linear_library: Callable, tmp_path: Path
) -> None:
    name = "other" if body == "return 0;" else "linear_functions"
    (tmp_path / "bad.c").write_text(f"void *{name}(void) {{ {body} }}\n")
    options = ["-shared", "-fPIC", "-nostdlib", "-fno-sanitize=undefined", "bad.c", "-o", "bad.so"]
    run_compiler(find_toolchain(host_target()), options, tmp_path)
    manifest = read_manifest(linear_library("host"))
    with pytest.raises(RunFailed, match=message):
        local_runner.run_library(tmp_path / "bad.so", manifest, full_sample(manifest), 1, 1, 2.0)


def test_what_this_machine_cannot_run_is_refused(local_runner: LocalRunner, linear_library: Callable) -> None:
    with pytest.raises(RunnerError, match=r"is for arm64-android .*: this machine cannot run it"):
        local_runner.measure(linear_library("arm64-android"))


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"threads": 0}])
def test_nothing_to_measure_is_refused(wrong: dict, local_runner: LocalRunner, linear_library: Callable) -> None:
    with pytest.raises(CompileError, match="at least one of each"):
        local_runner.measure(linear_library("host"), **wrong)


def test_an_emulator_that_counts_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "command", lambda *words: ["qemu-aarch64", *words])
    given: list[Any] = []

    def run(*arguments: Any) -> Any:
        given.extend(arguments)
        return SimpleNamespace(stderr="no such plugin"), b""

    monkeypatch.setattr(emulated, "run_on_files", run)
    runner = EmulatedRunner.__new__(EmulatedRunner)
    runner.core, runner._plugin, runner._program = None, Path("count.so"), Path("device")
    facts: Any = SimpleNamespace(target="arm64-linux", cpu="cortex-a76")
    with pytest.raises(RunnerError, match=r"^qemu-aarch64 counted nothing: its plugins do not work$"):
        runner.execute(Path("m.so"), facts, b"", 0, 1, 7.0)
    assert given[0][0] == "qemu-aarch64"
    assert given[-2:] == [(1, 0), 70.0]  # first without an inference; emulation has ten times as long


def test_emulation_counts_the_same_each_time_and_says_that_it_estimates(
    linear_library: Callable, agrees: Callable
) -> None:
    if os.system("command -v qemu-aarch64 >/dev/null") != 0:
        pytest.skip("needs qemu-aarch64 (Debian package qemu-user)")
    folder = linear_library("arm64-android")
    sample = full_sample(read_manifest(folder))
    with EmulatedRunner() as runner:
        first, outputs = runner.run(folder, sample)
        second, _ = runner.run(folder, sample)
        assert agrees(sample, outputs)
        # But for the digits of a time that the program prints: some dozens of instructions.
        assert first.median_ms == pytest.approx(second.median_ms, abs=1e-4)
        assert first.estimate
        # 24 × 64 × 48 multiply-adds, four at a time: no program needs fewer instructions, ours not five times as many.
        ideal = 24 * 64 * 48 / 4 / 1e6
        assert ideal < first.median_ms < 5 * ideal
        assert "ESTIMATED" in str(first)
        with pytest.raises(RunnerError, match="only arm64 is emulated"):
            runner.measure(linear_library("host"))
