"""The JSON that compile/runtime/tools/benchmark.c prints, as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from compile.artifact.manifest import Count, CpuName, Digest, Name, Natural, Precision, TargetName
from compile.running.runners.measurement import Measurement
from pocketbert.reading import read_typed_json
from pocketbert.typed import Check
from tune.errors import TuneError

Ms = Annotated[float, Check(lambda v: 0 < v < 1e9, "milliseconds above 0")]
Time = Annotated[float, Check(lambda v: 0 <= v < 1e9, "milliseconds")]
Samples = Annotated[tuple[Ms, ...], Check(lambda v: 0 < len(v) <= 10_000, "1 to 10,000 times")]


@dataclass(frozen=True)
class Result:
    """Times on a cluster with so many threads: opening, with the first run after it, and each further run.

    cpu_ms: the processor's time that all threads had in each; calls_ms: the median of each call, of one thread.
    """

    threads: Count
    open_ms: Time
    first_ms: Ms
    samples_ms: Samples
    cpu_ms: tuple[Time, ...]
    p50_ms: Ms
    p90_ms: Ms
    resident_bytes: Natural
    anonymous_bytes: Natural
    calls_ms: tuple[Time, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """Cores that work alike. capacity and max_khz are the kernel's, 0 where it does not say; temperature: °C or -1."""

    cores: Annotated[tuple[Natural, ...], Check(lambda v: 0 < len(v) <= 64, "1 to 64 cores")]
    capacity: Natural
    max_khz: Natural
    governor: str
    temperature: float
    results: Annotated[tuple[Result, ...], Check(lambda v: len(v) > 0, "at least one result")]


@dataclass(frozen=True)
class Benchmark:
    """sha256: of the library that the program is made of; cpu: whose kernels ran; emulated: times mean nothing."""

    format: Literal[1]
    model: Name
    target: TargetName
    precision: Precision
    sha256: Digest
    cpu: CpuName
    tokens: Count
    weight_bytes: Natural
    arena_bytes: Natural
    emulated: bool
    device: str
    system: str
    clusters: Annotated[tuple[Cluster, ...], Check(lambda v: len(v) > 0, "at least one cluster")]


def read_benchmark(path: Path) -> Benchmark:
    """Raises TuneError for what the program did not print, or printed under an emulator."""
    benchmark = read_typed_json(Benchmark, path, TuneError)
    if benchmark.emulated:
        raise TuneError(f"{path} was taken under an emulator, whose times say nothing: run the program on the device")
    for cluster in benchmark.clusters:
        if any(len(result.cpu_ms) != len(result.samples_ms) for result in cluster.results):
            raise TuneError(f"{path}: not every sample has its processor's time: the file was changed")
    return benchmark


def measurement(benchmark: Benchmark, cluster: Cluster, result: Result, toolchain: str) -> Measurement:
    """As runners have it. toolchain: `toolchain_hash` of the artifact."""
    temperature = None if cluster.temperature < 0 else cluster.temperature
    return Measurement(
        result.samples_ms, benchmark.device, cluster.cores, result.threads, cluster.governor, temperature, toolchain,
        cpu_ms=result.cpu_ms,
    )  # fmt: skip
