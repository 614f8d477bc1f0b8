"""Runs arm64 libraries under qemu and counts instructions: an estimate, and no time.

Under emulation there are no times; the number of executed instructions is exact and the same everywhere. A Measurement
from here takes each for a nanosecond and has `estimate` set: it compares libraries with each other, not with a phone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from compile.artifact.manifest import LibraryFacts
from compile.cpus import CPUS
from compile.linking.link import find_toolchain, run_compiler
from compile.running.runners.base import Device, Execution, Runner, RunnerError
from compile.running.runners.local import run_on_files
from compile.running.runners.qemu import command
from compile.targets import TARGETS, host_target
from pocketbert.temporary import TemporaryFolder
from tune.runners.program import build_device_program

PLUGIN = Path(__file__).with_name("count.c")


class EmulatedRunner(Runner):
    """Needs qemu-aarch64 with plugins, as Debian's package qemu-user has it.

    core: what to emulate, as qemu calls it; by default the oldest that a library runs on.
    """

    estimate = True
    unit = "M instructions"

    def __init__(self, core: str | None = None) -> None:
        self.core = core
        self.slots = len(os.sched_getaffinity(0))  # counts do not mind company
        command("max")  # is there one?
        self._work = TemporaryFolder()
        folder = self._work.path
        self._program = build_device_program(folder)
        self._plugin = folder / "count.so"
        zig = find_toolchain(host_target())
        run_compiler(zig, ["-O2", "-fPIC", "-c", str(PLUGIN), "-o", "count.o"], folder)
        run_compiler(zig, ["-shared", "-nostdlib", "-Wl,-z,undefs", "count.o", "-o", self._plugin.name], folder)

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        """One inference is counted, whatever `runs` says: every one executes the same instructions."""
        if TARGETS[facts.target].arch != "aarch64":
            raise RunnerError(f"{library.name} is for {facts.target}: only arm64 is emulated here")
        model = self.core or CPUS[facts.cpu].qemu_cpu
        before = command(model, "-plugin", str(self._plugin))
        counts, outputs = [], b""
        for times in (0, 1):
            numbers = (threads or 1, times)
            done, outputs = run_on_files([*before, str(self._program)], library, facts, inputs, numbers, 10 * timeout)
            executed = re.search(r"executed=(\d+)", done.stderr)
            if not executed:
                raise RunnerError(f"{before[0]} counted nothing: its plugins do not work")
            counts.append(int(executed[1]))
        return Execution(((counts[1] - counts[0]) / 1e6,), outputs, Device(describe(model), (0,)))

    def close(self) -> None:
        self._work.close()


def describe(model: str) -> str:
    return f"qemu-aarch64 -cpu {model}, instructions counted, 1 ns each"
