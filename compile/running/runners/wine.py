"""Runs DLLs for x86-64 Windows under Wine. Wine is no emulator: the processor is this machine's own."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from compile.artifact.manifest import LibraryFacts
from compile.linking.link import build_runner
from compile.running.runners.base import WARM_UP, Device, Execution, Runner, RunnerError, parse_times
from compile.running.runners.local import measuring, run_on_files
from compile.targets import TARGETS
from pocketbert.temporary import TemporaryFolder

NEEDED = "Wine on x86-64 Linux (Debian package wine64)"
# Debian keeps it out of the search path where the package `wine` is not installed.
PLACES = ("wine64", "wine", "/usr/lib/wine/wine64")


def missing() -> str | None:
    """What to install for DLLs to run here, None if all is there."""
    return None if command() else NEEDED


def command() -> str | None:
    """Wine's program."""
    here = platform.system() == "Linux" and platform.machine() == "x86_64"
    return next(filter(None, map(shutil.which, PLACES)), None) if here else None


class WineRunner(Runner):
    """Its own Windows, made when it is first used and gone afterwards."""

    def __init__(self) -> None:
        wine = command()
        if wine is None:
            raise RunnerError(f"DLLs run here only with {NEEDED}: install it")
        self._folder = TemporaryFolder()
        self._before = ["env", f"WINEPREFIX={self._folder.path / 'windows'}", "WINEDEBUG=-all", wine]
        self._program = build_runner(TARGETS["x86_64-windows"], self._folder.path)

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        if facts.target != "x86_64-windows":
            raise RunnerError(f"{library.name} is for {facts.target}: Wine runs x86_64-windows here")
        times = runs + WARM_UP if runs else 0
        with measuring():
            program = [*self._before, str(self._program)]
            done, outputs = run_on_files(program, library, facts, inputs, (threads, times), timeout)
        wall, cpu = parse_times(done.stdout)
        return Execution(wall, outputs, Device("Wine", tuple(sorted(os.sched_getaffinity(0)))), cpu)

    def close(self) -> None:
        self._folder.close()
