"""Runs arm64 libraries under qemu-aarch64, loaded by glibc's own dynamic linker: what is right here is right on arm64.

Android's libraries run too: their sonames lead to glibc's files. Times under emulation mean nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from compile.artifact.manifest import LibraryFacts
from compile.linking.link import build_runner
from compile.running.runners.base import Device, Execution, Runner, RunnerError
from compile.running.runners.local import run_on_files
from compile.targets import CPUS, TARGETS
from pocketbert.temporary import TemporaryFolder

# Where Debian's libc6-arm64-cross puts glibc for arm64.
ARM64_ROOT = Path("/usr/aarch64-linux-gnu")


def missing() -> str | None:
    """What to install for arm64 libraries to run here, None if all is there."""
    if not shutil.which("qemu-aarch64"):
        return "qemu-aarch64 (Debian package qemu-user)"
    if not ARM64_ROOT.is_dir():
        return "glibc for arm64 (Debian package libc6-arm64-cross)"
    return None


def command(core: str, *options: str) -> list[str]:
    """What goes before an arm64 program. Raises RunnerError without qemu."""
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        raise RunnerError("qemu-aarch64 was not found: install qemu (Debian package qemu-user)")
    return [qemu, "-cpu", core, *options]


class QemuRunner(Runner):
    """core: what to emulate, as qemu calls it; by default the oldest that a library runs on."""

    estimate = True

    def __init__(self, core: str | None = None) -> None:
        if lacking := missing():
            raise RunnerError(f"arm64 libraries run here only with {lacking}: install it")
        self.core = core
        self._folder = TemporaryFolder()
        self._libraries = self._folder.path
        self._program = build_runner(TARGETS["arm64-linux"], self._libraries)
        for soname, file in (("libc.so", "libc.so.6"), ("libm.so", "libm.so.6")):
            (self._libraries / soname).symlink_to(ARM64_ROOT / "lib" / file)

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        if TARGETS[facts.target].arch != "aarch64":
            raise RunnerError(f"{library.name} is for {facts.target}: only arm64 is emulated here")
        core = self.core or CPUS[facts.cpu].qemu_cpu
        before = command(core, "-L", str(ARM64_ROOT), "-E", f"LD_LIBRARY_PATH={self._libraries}")
        _, outputs = run_on_files([*before, str(self._program)], library, facts, inputs, (threads or 1, 0), timeout)
        return Execution((), outputs, Device(f"qemu-aarch64 -cpu {core}", (0,)))

    def close(self) -> None:
        self._folder.close()
