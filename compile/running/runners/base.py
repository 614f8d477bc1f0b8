"""The interface of all runners, and what they share: inputs, warm-up, and reading what the program on the device wrote.

What runs on the device is compile/runtime/tools/runner.c: it opens a library, runs a sample and prints the nanoseconds
of each further run. A runner's own part is to get files there, run a command, and say what the device is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from compile.artifact.manifest import LibraryFacts
from compile.errors import CompileError
from compile.running.load import read_manifest
from compile.running.runners.measurement import Measurement, toolchain_hash
from compile.running.samples import Sample, full_sample, input_bytes, read_outputs, shaped_for

# Runs before the timed ones: they fault pages in and wake the clock.
WARM_UP = 2


class RunnerError(CompileError):
    """A device that does not do as it should: absent, unplugged, without space. The message names it."""


class RunFailed(CompileError):
    """The library itself crashed, hung or refused: its own fault and not the device's."""


@dataclass(frozen=True)
class Device:
    """Facts that go into a Measurement; see there."""

    name: str
    cores: tuple[int, ...]
    governor: str = ""
    temperature: float | None = None


@dataclass(frozen=True)
class Execution:
    """What came back from the device: ms of each run, of the processor's time in it where known, the outputs' bytes."""

    samples_ms: tuple[float, ...]
    outputs: bytes
    device: Device
    cpu_ms: tuple[float, ...] = ()


class Runner(ABC):
    """Runs artifact folders somewhere. Use as a context manager.

    estimate: whether what it returns are no times; unit: what they are; slots: how many libraries it can run at once.
    """

    estimate = False
    unit = "ms"
    slots = 1

    def measure(self, artifact: Path, *, threads: int = 1, runs: int = 30, timeout: float = 120.0) -> Measurement:
        """Latency of the artifact on random inputs of full length. Raises RunnerError, RunFailed or CompileError."""
        return self.run(artifact, full_sample(read_manifest(artifact)), threads=threads, runs=runs, timeout=timeout)[0]

    def run(
        self, artifact: Path, sample: Sample, *, threads: int = 1, runs: int = 30, timeout: float = 120.0
    ) -> tuple[Measurement, dict[str, NDArray[Any]]]:
        """Run `sample` once for its outputs and then `runs` times for the time. timeout: seconds for all of it."""
        manifest = read_manifest(artifact)
        return self.run_library(artifact / manifest.library, manifest, sample, threads, runs, timeout)

    def outputs(
        self, library: Path, facts: LibraryFacts, samples: Sequence[Sample], threads: int = 0, timeout: float = 3600.0
    ) -> tuple[list[dict[str, NDArray[Any]]], str]:
        """Run each of `samples` once: their outputs, and what ran them. threads 0 is the library's own default."""
        results, device = [], ""
        for sample in samples:
            shaped = shaped_for(facts, sample)
            result = self.execute(library, shaped, input_bytes(shaped, sample), threads, 0, timeout)
            results.append(self._read(library, shaped, result))
            device = result.device.name
        return results, device

    def run_library(
        self, library: Path, facts: LibraryFacts, sample: Sample, threads: int, runs: int, timeout: float
    ) -> tuple[Measurement, dict[str, NDArray[Any]]]:
        """`run` for a library that is described by `facts` and need not be in an artifact folder."""
        if runs < 1 or threads < 1:
            raise CompileError(f"{runs} runs on {threads} threads: at least one of each is needed")
        result = self.execute(library, facts, input_bytes(facts, sample), threads, runs, timeout)
        wanted = 1 if self.estimate else runs
        if len(result.samples_ms) != wanted or len(result.cpu_ms) not in (0, wanted):
            raise RunFailed(
                f"{library.name} on {result.device.name}: {len(result.samples_ms)} of {wanted} times came back"
            )
        measurement = Measurement(
            result.samples_ms,
            result.device.name,
            result.device.cores,
            threads,
            result.device.governor,
            result.device.temperature,
            toolchain_hash(facts),
            self.estimate,
            result.cpu_ms,
        )
        return measurement, self._read(library, facts, result)

    def _read(self, library: Path, facts: LibraryFacts, result: Execution) -> dict[str, NDArray[Any]]:
        expected = sum(e.nbytes for e in facts.outputs)
        if len(result.outputs) != expected:
            came = f"{len(result.outputs)} of {expected} bytes of outputs came back"
            raise RunFailed(f"{library.name} on {result.device.name}: {came}")
        return read_outputs(facts, result.outputs)

    def peak_gflops(self, precision: str = "float32") -> float | None:
        """The rate at which a core there multiplies and adds; None where that is not known."""
        return None

    @abstractmethod
    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        """Run `library` once for its outputs and `runs` times for the time. Raises RunnerError or RunFailed."""

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Give back what the runner holds: files on devices, sessions."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def parse_times(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """ms of each timed run, and of the processor's time in it: two counts of nanoseconds a line, warm-up left out."""
    runs = [line.split() for line in text.splitlines()[WARM_UP:]]
    times = [(int(wall) / 1e6, int(cpu) / 1e6) for wall, cpu in (r for r in runs if len(r) == 2) if wall.isdigit()]
    return tuple(wall for wall, _ in times), tuple(cpu for _, cpu in times)
