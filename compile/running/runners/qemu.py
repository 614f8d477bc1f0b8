"""Runs libraries for other machines under qemu, loaded by glibc's own dynamic linker: right here is right there.

Android's libraries run too: their sonames lead to glibc's files. Times under emulation mean nothing.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from compile.artifact.manifest import LibraryFacts
from compile.cpus import CPUS
from compile.linking.link import build_runner
from compile.running.runners.base import Device, Execution, RunFailed, Runner, RunnerError
from compile.running.runners.local import run_on_files
from compile.targets import TARGETS, Target
from pocketbert.temporary import TemporaryFolder

NEEDED = "qemu 7.2 or later"
# Where Debian's libc6-arm64-cross puts glibc for arm64.
ARM64_ROOT = Path("/usr/aarch64-linux-gnu")


@dataclass(frozen=True)
class Emulator:
    """What runs programs of an architecture: qemu's program, where their glibc is, and what brings that."""

    program: str
    root: Path
    libraries: str
    package: str


EMULATORS = {
    "aarch64": Emulator("qemu-aarch64", ARM64_ROOT, "lib", "libc6-arm64-cross"),
    # Android's 32-bit libraries pass floats in integer registers, as Debian's armel does and armhf does not.
    "arm": Emulator("qemu-arm", Path("/usr/arm-linux-gnueabi"), "lib", "libc6-armel-cross"),
    "riscv64": Emulator("qemu-riscv64", Path("/usr/riscv64-linux-gnu"), "lib", "libc6-riscv64-cross"),
    "x86_64": Emulator("qemu-x86_64", Path("/"), "lib/x86_64-linux-gnu", "libc6:amd64"),
}


def missing(arch: str = "aarch64") -> str | None:
    """What to install for libraries of that architecture to run here, None if all is there."""
    emulator = EMULATORS[arch]
    if not shutil.which(emulator.program):
        return f"{emulator.program} (Debian package qemu-user)"
    if not (emulator.root / emulator.libraries / "libc.so.6").exists():
        return f"glibc for {arch} (Debian package {emulator.package})"
    return None


def command(core: str, *options: str, arch: str = "aarch64") -> list[str]:
    """What goes before a program. Raises RunnerError without qemu."""
    program = EMULATORS[arch].program
    qemu = shutil.which(program)
    if qemu is None:
        raise RunnerError(f"{program} was not found: install qemu (Debian package qemu-user)")
    return [qemu, "-cpu", core, *options]


class QemuRunner(Runner):
    """core: what to emulate, as qemu calls it; by default the oldest that a library runs on."""

    estimate = True

    def __init__(self, core: str | None = None, target: Target = TARGETS["arm64-linux"]) -> None:
        if lacking := missing(target.arch):
            raise RunnerError(f"{target.name} libraries run here only with {lacking}: install it")
        self.core, self.arch = core, target.arch
        self._emulator = EMULATORS[target.arch]
        self._folder = TemporaryFolder()
        self._libraries = self._folder.path
        self._program = build_runner(target, self._libraries)
        for soname, file in (("libc.so", "libc.so.6"), ("libm.so", "libm.so.6")):
            (self._libraries / soname).symlink_to(self._emulator.root / self._emulator.libraries / file)

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        if TARGETS[facts.target].arch != self.arch:
            raise RunnerError(f"{library.name} is for {facts.target}: only {self.arch} is emulated here")
        core = self.core or CPUS[facts.cpu].qemu_cpu
        options = ("-L", str(self._emulator.root), "-E", f"LD_LIBRARY_PATH={self._libraries}")
        before = command(core, *options, arch=self.arch)
        try:
            _, outputs = run_on_files([*before, str(self._program)], library, facts, inputs, (threads or 1, 0), timeout)
        except RunFailed as error:
            _, said, words = str(error).partition(f"{self._emulator.program}: ")
            if said:  # by qemu and not by the library
                raise RunnerError(f"{said}{words}: -cpu {core} takes {NEEDED}: install that") from error
            raise
        return Execution((), outputs, Device(f"{self._emulator.program} -cpu {core}", (0,)))

    def close(self) -> None:
        self._folder.close()
