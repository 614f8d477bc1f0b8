"""Runs arm64 libraries under qemu and counts instructions: an estimate, and no time.

Under emulation there are no times; the number of executed instructions is exact and the same everywhere. A Measurement
from here takes each for a nanosecond and has `estimate` set: it compares libraries with each other, not with a phone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from compile.artifact.manifest import LibraryFacts
from compile.linking.link import find_toolchain, run_compiler
from compile.targets import CPUS, TARGETS, host_target
from tune.runners.base import Device, Execution, RunFailed, Runner, RunnerError
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
        qemu = shutil.which("qemu-aarch64")
        if qemu is None:
            raise RunnerError("qemu-aarch64 was not found: install qemu (Debian package qemu-user)")
        self._qemu = qemu
        self._work = tempfile.TemporaryDirectory(prefix="pocketbert-")
        folder = Path(self._work.name)
        self._program = build_device_program(folder)
        self._plugin = folder / "count.so"
        zig = find_toolchain(host_target())
        run_compiler(zig, ["-O2", "-fPIC", "-c", str(PLUGIN), "-o", "count.o"], folder)
        run_compiler(zig, ["-shared", "-nostdlib", "-Wl,-z,undefs", "count.o", "-o", str(self._plugin)], folder)

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        """One inference is counted, whatever `runs` says: every one executes the same instructions."""
        if TARGETS[facts.target].arch != "aarch64":
            raise RunnerError(f"{library.name} is for {facts.target}: only arm64 is emulated here")
        model = self.core or CPUS[facts.cpu].emulated
        with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
            given, taken = Path(name, "inputs"), Path(name, "outputs")
            given.write_bytes(inputs)
            arguments = [str(library.resolve()), facts.name, str(given), str(taken), str(threads)]
            before, after = (self._count(model, [*arguments, str(times)], timeout) for times in (0, 1))
            return Execution(((after - before) / 1e6,), taken.read_bytes(), Device(describe(model), (0,)))

    def _count(self, model: str, arguments: list[str], timeout: float) -> int:
        command = [self._qemu, "-cpu", model, "-plugin", str(self._plugin), str(self._program), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10 * timeout, check=False)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"hung: no result after {10 * timeout:g} s of emulation") from None
        found = re.search(r"executed=(\d+)", done.stderr)
        if done.returncode < 0 or done.returncode > 128:
            raise RunFailed(f"crashed with signal {abs(done.returncode) % 128}")
        if done.returncode or not found:
            raise RunFailed(f"failed: {(done.stderr.strip().splitlines() or [f'status {done.returncode}'])[-1]}")
        return int(found[1])

    def close(self) -> None:
        self._work.cleanup()


def describe(model: str) -> str:
    return f"qemu-aarch64 -cpu {model}, instructions counted, 1 ns each"
