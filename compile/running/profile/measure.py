"""Run a library with its profile on, and sum up what each kernel, each layer and each barrier took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from compile.artifact.manifest import Manifest
from compile.errors import CompileError
from compile.running.load import Record, load, read_manifest
from compile.running.profile.machine import measure_peak
from compile.running.samples import full_sample
from compile.targets import TARGETS, runs_here, with_cpu
from pocketbert.temporary import TemporaryFolder

WARM_UP = 3


@dataclass(frozen=True)
class Share:
    """What one kernel or layer took in a run: calls, FLOPs and bytes are those of the run, seconds of all threads.

    ideal: the seconds that its multiply-adds need at the peak rate of their precision.
    """

    name: str
    calls: int
    seconds: float
    flops: float
    bytes: float
    ideal: float

    @property
    def gflops(self) -> float:
        """The rate of one core, in GFLOP/s."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def of_peak(self) -> float:
        return self.ideal / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """Means over the fastest quarter of the runs, which other programs disturbed least; all parts add up.

    seconds: such a run, by the clock; median: of all runs; waiting: of all threads at barriers; between: what is left
    of threads × seconds, waking up and from call to call; peaks: a core's multiply-add rate in GFLOP/s for each
    precision among the kernels, the fastest quarter of as many measurements between the runs; trace: the records of
    one of those runs.
    """

    manifest: Manifest
    threads: int
    tokens: int
    runs: int
    seconds: float
    median: float
    kernels: list[Share]
    layers: list[Share]
    waiting: float
    between: float
    peaks: Mapping[str, float]
    trace: list[Record]

    @property
    def thread_seconds(self) -> float:
        return self.threads * self.seconds


def profile(
    folder: Path,
    threads: int = 1,
    tokens: int | None = None,
    runs: int = 20,
    progress: Callable[[int], None] = lambda done: None,
) -> Profile:
    """Profile the library in an artifact folder on random ids without padding. progress is called after each run.

    Raises CompileError if it cannot run here, has no calls in its manifest, or cannot take `tokens`.
    """
    manifest = read_manifest(folder)
    check(folder, manifest, tokens)
    length = tokens or manifest.tokens
    sample = full_sample(manifest, length)
    precisions: list[str] = ["float32", *{kernel.precision for kernel in manifest.kernels} & {"int8"}]
    records, measured = [], []
    with TemporaryFolder() as work, load(folder, threads, profile=True) as library:
        rates = [measure_peak(work, threads, steps=500_000, precision=precision) for precision in precisions]
        for turn in range(WARM_UP + runs):
            library.run(sample)
            if turn >= WARM_UP:
                records.append(library.profile())
                measured.append([rate() for rate in rates])
            progress(turn)
    best = [sorted(values)[-fastest(runs) :] for values in zip(*measured, strict=True)]
    peaks = {precision: sum(values) / len(values) for precision, values in zip(precisions, best, strict=True)}
    return summarise(manifest, threads, length, records, peaks)


def fastest(runs: int) -> int:
    """How many runs count: a quarter, rounded up."""
    return -(-runs // 4)


def check(folder: Path, manifest: Manifest, tokens: int | None) -> None:
    """Refuse what cannot be profiled here, before anything is opened."""
    target = with_cpu(TARGETS[manifest.target], manifest.cpu)
    if not runs_here(target):
        raise CompileError(
            f"{folder} was built for {target.name} ({target.cpu.name}), and times under emulation say nothing of it: "
            "profile it on such a machine, or build with --target host to profile here"
        )
    if not manifest.calls:
        raise CompileError(f"{folder} has no calls in its manifest: build the artifact again")
    most = manifest.tokens
    if tokens is not None and not (1 <= tokens <= most and (tokens == most or manifest.shorter_sequences)):
        fits = f"1 to {most}" if manifest.shorter_sequences else f"{most} alone"
        raise CompileError(f"--tokens {tokens}: the model takes {fits}")


def summarise(
    manifest: Manifest, threads: int, tokens: int, runs: list[list[Record]], peaks: Mapping[str, float]
) -> Profile:
    """Sum up the records of `runs`."""

    def length(run: list[Record]) -> int:
        return run[0].end_ns - run[0].start_ns

    records = sorted(runs, key=length)[: fastest(len(runs))]
    seconds = sum(map(length, records)) / len(records) / 1e9
    waiting = sum(barrier_wait(manifest, run, threads) for run in records) / len(records) / 1e9
    call_seconds: dict[int, float] = defaultdict(float)
    for run in records:
        for record in run[1:]:
            call_seconds[record.call] += (record.end_ns - record.start_ns) / len(records) / 1e9
    kernels, layers = (_shares(manifest, call_seconds, tokens, key, peaks) for key in ("kernel", "layer"))
    between = threads * seconds - sum(call_seconds.values()) - waiting
    usual, trace = median(map(length, runs)) / 1e9, records[len(records) // 2]
    return Profile(
        manifest, threads, tokens, len(runs), seconds, usual, kernels, layers, waiting, between, peaks, trace
    )


def barrier_wait(manifest: Manifest, run: list[Record], threads: int) -> int:
    """Nanoseconds that threads waited for the last of them: in each stage, from a thread's last call to its end.

    A thread without a call in a stage waits from the end of the stage before.
    """
    return sum(end - start for _, start, end in waits(manifest, run, threads))


def waits(manifest: Manifest, run: list[Record], threads: int) -> list[tuple[int, int, int]]:
    """Thread, begin and end of each wait at a barrier."""
    ends: dict[int, dict[int, int]] = defaultdict(dict)
    for record in run[1:]:
        of_stage = ends[manifest.calls[record.call].stage]
        of_stage[record.thread] = max(of_stage.get(record.thread, 0), record.end_ns)
    intervals, before = [], run[0].start_ns
    for _, of_stage in sorted(ends.items()):
        end = max(of_stage.values())
        intervals += [(thread, of_stage.get(thread, before), end) for thread in range(threads)]
        before = end
    return [wait for wait in intervals if wait[1] < wait[2]]


def call_flops(manifest: Manifest, tokens: int) -> list[float]:
    """Each call's FLOPs at `tokens`: rows are fewer then, and for an attention columns too."""
    attentions = {k.name for k in manifest.kernels if k.family == "attention"}
    scale = tokens / manifest.tokens
    return [
        call.flops * (scale if call.rows == manifest.tokens else 1)
        * (scale if call.kernel in attentions else 1)
        for call in manifest.calls
    ]  # fmt: skip


def _shares(
    manifest: Manifest, call_seconds: dict[int, float], tokens: int, key: str, peaks: Mapping[str, float]
) -> list[Share]:
    """By kernel or by layer, in the order in which they first run."""
    flops, groups = call_flops(manifest, tokens), defaultdict(list)
    peak_of = {kernel.name: peaks[kernel.precision] * 1e9 for kernel in manifest.kernels}
    for index, call in enumerate(manifest.calls):
        groups[getattr(call, key)].append(index)
    scale = tokens / manifest.tokens
    return [
        Share(
            name,
            len(calls),
            sum(call_seconds[i] for i in calls),
            sum(flops[i] for i in calls),
            sum(manifest.calls[i].bytes for i in calls) * scale,
            sum(flops[i] / peak_of[manifest.calls[i].kernel] for i in calls),
        )
        for name, calls in groups.items()
    ]
