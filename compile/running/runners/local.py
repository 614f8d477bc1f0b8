"""Runs libraries on this machine, each in a process of its own: what crashes or hangs takes nothing with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compile.artifact.manifest import LibraryFacts
from compile.linking.link import build_runner
from compile.running.runners.base import WARM_UP, Device, Execution, RunFailed, Runner, RunnerError, parse_times
from compile.targets import TARGETS, runs_here, with_cpu
from pocketbert.temporary import TemporaryFolder

if sys.platform != "win32":
    import fcntl

PEAK_TRIES = 200


@contextmanager
def measuring() -> Iterator[None]:
    """One library at a time is run on this machine, whoever asks: two at once would be told each other's time."""
    if sys.platform == "win32":
        yield
        return
    path = Path(tempfile.gettempdir(), f"pocketbert-measuring-{os.getuid()}")
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


class LocalRunner(Runner):
    """cores: those that the process may use; by default all that this one may. program: one that was built."""

    def __init__(self, cores: Sequence[int] | None = None, program: Path | None = None) -> None:
        allowed = os.sched_getaffinity(0)
        self.cores = tuple(sorted(cores or allowed))
        if not set(self.cores) <= allowed:
            raise RunnerError(f"--cores {','.join(map(str, self.cores))}: this process may use {sorted(allowed)}")
        self._folder = TemporaryFolder()
        self.program = program

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        target = with_cpu(TARGETS[facts.target], facts.cpu)
        if not runs_here(target):
            raise RunnerError(f"{library.name} is for {target.name} ({target.cpu.name}): this machine cannot run it")
        if self.program is None:
            self.program = build_runner(target, self._folder.path)
        device, times = this_machine(self.cores), runs + WARM_UP if runs else 0
        with measuring():
            done, outputs = run_on_files(
                [str(self.program)], library, facts, inputs, (threads, times), timeout, pinned_to(self.cores)
            )
        wall, cpu = parse_times(done.stdout)
        return Execution(wall, outputs, device, cpu)

    def peak_gflops(self, precision: str = "float32") -> float:
        """The best of many short tries, of which a busy machine leaves some alone."""
        from compile.running.profile.machine import measure_peak

        with TemporaryFolder() as folder, measuring():
            rate = measure_peak(folder, steps=200_000, precision=precision)
            return max(rate() for _ in range(PEAK_TRIES))

    def close(self) -> None:
        self._folder.close()


def run_on_files(
    program: list[str],
    library: Path,
    facts: LibraryFacts,
    inputs: bytes,
    numbers: tuple[int, int],
    timeout: float,
    prepare: Callable[[], None] | None = None,
) -> tuple[subprocess.CompletedProcess[str], bytes]:
    """Run `program`, runner.c or device.c and what goes before it, on one sample; and the outputs that it wrote.

    numbers: threads, and how often the sample is run again for the time. facts: with the shapes that the sample has.
    """
    tokens = next((e.shape[e.token_axis] for e in facts.inputs if e.token_axis is not None), 0)
    with TemporaryFolder() as folder:
        inputs_file, outputs_file = folder / "inputs", folder / "outputs"
        inputs_file.write_bytes(inputs)
        files = [str(library.resolve()), facts.name, str(inputs_file), str(outputs_file)]
        done = run_program([*program, *files, *map(str, (*numbers, tokens))], timeout, prepare)
        return done, outputs_file.read_bytes()


def run_program(
    command: list[str], timeout: float, prepare: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `command`. Raises RunFailed, with the last line of its errors, if it fails, crashes or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout, preexec_fn=prepare, errors="replace"
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"hung: no result after {timeout:g} s") from None
    except OSError as error:
        raise RunnerError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode < 0 or done.returncode > 128:  # an emulator says so by its status
        raise RunFailed(f"crashed with signal {abs(done.returncode) % 128}")
    if done.returncode:
        raise RunFailed(f"failed: {(done.stderr.strip().splitlines() or [f'status {done.returncode}'])[-1]}")
    return done


def pinned_to(cores: Sequence[int]) -> Callable[[], None]:
    """For a new process, before it becomes the program."""
    return lambda: os.sched_setaffinity(0, cores)


def this_machine(cores: Sequence[int]) -> Device:
    """Its CPU as Linux calls it; governor and temperature where the kernel shows them."""
    lines = _read("/proc/cpuinfo").splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), os.uname().machine)
    governor = _read(f"/sys/devices/system/cpu/cpu{cores[0]}/cpufreq/scaling_governor").strip()
    zones = sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    degrees = [int(text) / 1000 for zone in zones if (text := _read(zone).strip()).lstrip("-").isdigit()]
    return Device(name, tuple(cores), governor, max(degrees, default=None))


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
