"""Where a device's own times go: into the artifact's manifest, a tuning database, and a search's predictor."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from compile.artifact.manifest import FILE, Kernel, Manifest, MeasuredTime, list_files
from compile.artifact.report import write_report
from compile.artifact.signature import SIGNATURE
from compile.cpus import CPUS
from compile.databases import Record, shipped
from compile.kernels.tiles import TileConfig, TileKey
from compile.running.runners.measurement import Measurement, toolchain_hash
from pocketbert.files import write_whole
from tune.errors import TuneError
from tune.kernels.journal import Journal
from tune.measured.benchmark import Benchmark, Cluster, measurement

SOURCE = "benchmark program"


def into_manifest(benchmark: Benchmark, manifest: Manifest, artifact: Path) -> str:
    """State the device's latencies in manifest.json and report.html, for earlier ones of it. Returns what was done."""
    if (artifact / SIGNATURE).exists():
        return f"{artifact}: it is signed, so its manifest stays as it is"
    today = datetime.date.today().isoformat()
    times = []
    for cluster in benchmark.clusters:
        for result in cluster.results:
            taken = measurement(benchmark, cluster, result, toolchain_hash(manifest))
            times.append(
                MeasuredTime(
                    benchmark.device, cluster.cores, result.threads, benchmark.tokens, len(taken.samples_ms),
                    taken.median_ms, taken.spread_ms, today,
                )
            )  # fmt: skip
    others = tuple(time for time in manifest.measured if time.device != benchmark.device)
    manifest = replace(manifest, measured=(*others, *times))
    write_report(artifact, manifest)
    replace(manifest, files=list_files(artifact)).write(artifact)
    return f"{artifact / FILE}: {len(times)} latencies of {benchmark.device}"


def into_database(benchmark: Benchmark, manifest: Manifest, path: Path) -> str:
    """Append what each tile took. It is chosen where the choice was an estimate, or slower on the same device.

    A database that is not there begins with the records that come with the compiler. Returns what was done.
    """
    cpu, times = CPUS[manifest.cpu], tile_times(benchmark, manifest)
    if not times:
        return (
            f"{path}: nothing, since the device ran other tiles, for {benchmark.cpu}: build with --cpu {benchmark.cpu}"
        )
    if not path.exists() and (base := shipped(cpu)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, base.read_bytes(), TuneError)
    journal = Journal(path, cpu)
    taken = 0
    try:
        for (key, tile), ms in times.items():
            cluster = strongest(benchmark)
            detail = {"rows": manifest.tokens, "source": SOURCE}
            detail |= {"measurement": _of_kernel(benchmark, cluster, manifest, ms).to_dict()}
            before = journal.chosen.get(key)
            journal.append(Record(cpu.name, key, tile, "ok", "measured", ms, detail))
            if before is None or _replaces(ms, tile, benchmark.device, before):
                journal.append(Record(cpu.name, key, tile, "chosen", "measured", ms, detail))
                taken += 1
    finally:
        journal.close()
    return f"{path}: {len(times)} tiles of {benchmark.device}, {taken} of them chosen; python -m compile --db {path}"


def into_study(benchmark: Benchmark, manifest: Manifest, name: str, storage: str) -> str:
    """The cost of each kernel, for predictions. Raises TuneError for a study whose figures these are not."""
    from tune.search.storage import load_study
    from tune.search.study import settings_of

    study = load_study(name, storage)
    settings = settings_of(study)
    ours = {
        "target": (manifest.target, [settings.target]),
        "cpu": (manifest.cpu, [settings.cpu]),
        "seq-len": (manifest.tokens, settings.seq_lens or [settings.seq_len]),
        "precision": (manifest.precision, settings.precisions or [settings.precision]),
        "threads": (1, [settings.threads]),
    }
    for what, (value, theirs) in ours.items():
        if value not in theirs:
            raise TuneError(
                f"--study {name} has {what} {' or '.join(map(str, theirs))}, the benchmark {value}: these cannot "
                "be compared"
            )
    reference = study.user_attrs.get("reference", {}).get("device", "")
    if settings.runner == "emulated" or reference.partition(" (")[0] != benchmark.device:
        raise TuneError(
            f"--study {name} was measured on {reference or 'nothing yet'}, the benchmark on {benchmark.device}: begin "
            "a study on that device"
        )
    costs = kernel_times(benchmark, manifest)
    for key, ms in costs.items():
        study.set_user_attr(f"kernel:{key}", ms)
    return f"--study {name}: the costs of {len(costs)} kernels"


def strongest(benchmark: Benchmark) -> Cluster:
    """The cluster whose kernels are counted: of those with the times of calls the first, which is the fastest."""
    for cluster in benchmark.clusters:
        if any(result.calls_ms for result in cluster.results):
            return cluster
    raise TuneError(f"the benchmark of {benchmark.device} has no times of kernel calls: run the program again")


def call_times(benchmark: Benchmark, manifest: Manifest) -> Mapping[tuple[str, int], list[float]]:
    """ms of every call, by its kernel's name and its rows. Raises TuneError where the artifact has other calls."""
    (times,) = [r.calls_ms for r in strongest(benchmark).results if r.calls_ms][:1]
    if len(times) != len(manifest.calls):
        raise TuneError(f"the benchmark has {len(times)} kernel calls, the artifact {len(manifest.calls)}")
    by_kernel = defaultdict(list)
    for call, ms in zip(manifest.calls, times, strict=True):
        by_kernel[call.kernel, call.rows].append(ms)
    return by_kernel


def kernel_times(benchmark: Benchmark, manifest: Manifest) -> dict[str, float]:
    """ms a call by a kernel's key, as `tune.search.probe.kernel_key` spells it."""
    times = call_times(benchmark, manifest)
    return {f"{kernel}@{rows}": median(each) for (kernel, rows), each in times.items() if median(each) > 0}


def tile_times(benchmark: Benchmark, manifest: Manifest) -> dict[tuple[TileKey, TileConfig], float]:
    """ms a call of each tile that a database could have chosen; of kernels that share one the most called.

    Empty where the device ran kernels for another instruction set, whose tiles the manifest does not tell.
    """
    built, ran = CPUS[manifest.cpu].isa, CPUS[benchmark.cpu].isa
    kernels = {kernel.name: kernel for kernel in manifest.kernels}
    times: dict[tuple[TileKey, TileConfig], list[float]] = {}
    for (name, rows), each in call_times(benchmark, manifest).items():
        same = built == ran and (built.dot == ran.dot or kernels[name].precision != "int8")
        key = tile_key(kernels[name], built.name, built.dot)
        if key and same and rows == manifest.tokens and len(each) > len(times.get(key, ())):
            times[key] = each
    return {key: median(each) for key, each in times.items() if median(each) > 0}


def tile_key(kernel: Kernel, isa: str, dot: str) -> tuple[TileKey, TileConfig] | None:
    tiling = kernel.tiling
    if tiling is None:
        return None
    precision = f"i8_{dot}" if kernel.precision == "int8" else "f32"
    key = TileKey(kernel.family, isa, precision, tiling.k, tiling.n)
    return key, TileConfig(tiling.mr, tiling.nr, tiling.k_unroll)


def _replaces(ms: float, tile: TileConfig, device: str, before: Record) -> bool:
    """Whether a measured tile is chosen in place of `before`: of another device's times it only replaces estimates."""
    if before.how == "estimated":
        return True
    same = before.detail.get("source") == SOURCE and before.detail["measurement"]["device"] == device
    return same and (tile == before.tile or before.ms is None or ms < before.ms)


def _of_kernel(benchmark: Benchmark, cluster: Cluster, manifest: Manifest, ms: float) -> Measurement:
    of_the_model = measurement(benchmark, cluster, cluster.results[0], toolchain_hash(manifest))
    return replace(of_the_model, samples_ms=(ms,), cpu_ms=(), threads=1)
