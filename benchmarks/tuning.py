"""What tuning gains on this machine: tuned tiles, the default tiles, and stock MetaSchedule given the same time.

    python benchmarks/tuning.py [--model mobilebert] [--db FILE] [--tasks 3] [--stock-seconds 28] [--rounds 15] [--json]

Two questions. Whole model: one library with the default tiles and one with the database's, in turns. Tasks: each kernel
with its default and its tuned tile, in turns, on weights that come from memory; beside a linear the best product that
MetaSchedule finds by itself (its own rules, evolutionary search, its own cost model) in the seconds that a task of our
session takes. Stock's figure is its own: timed on weights that lie in the cache, which is kind to it.
"""

import argparse
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

# A script's own folder comes first on the path; the project's root must.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import compile
import model as core
from benchmarks.command import LAYERS, RUNS, THREADS, measure_and_show, new_parser, number
from benchmarks.presets import SEQUENCE, export
from compile.databases import read, shipped
from compile.errors import CompileError
from compile.kernels.tiles import DEFAULT_TILES
from compile.running.runners.local import LocalRunner, this_machine
from compile.targets import host_target
from tune.kernels.library import build_candidate, compile_harness, describe
from tune.kernels.model import program_of
from tune.kernels.search import tensor_intrinsics, workload
from tune.kernels.tasks import Task, inputs_and_answer, tasks_of

UNMEASURED_MS = 1e10  # and more is what MetaSchedule records of a schedule that did not run
INTRINSICS = {"x86_64": "x86", "aarch64": "arm_cpu"}
SEARCH = "import sys; from benchmarks.tuning import search_alone; search_alone(sys.argv[1])"


def in_turns(calls: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Every call's ms in each round; the order turns round, too."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in calls if turn % 2 else reversed(calls):
            times[name].append(calls[name]())
    return times


def compare(times: dict[str, list[float]]) -> dict[str, float]:
    ratio = median(t / d for t, d in zip(times["tuned"], times["default"], strict=True))
    return {"default_ms": min(times["default"]), "tuned_ms": min(times["tuned"]), "tuned_of_default": ratio}


def whole_model(artifacts: dict[str, Path], threads: int, rounds: int, runner: LocalRunner) -> dict[str, float]:
    calls = {
        name: lambda folder=folder: min(runner.measure(folder, threads=threads, runs=5).samples_ms)
        for name, folder in artifacts.items()
    }
    return compare(in_turns(calls, rounds))


def one_task(task: Task, tuned: Any, rounds: int, runner: LocalRunner, folder: Path) -> dict[str, float]:
    target = host_target()
    tiles = {"default": DEFAULT_TILES[task.key.isa, task.key.precision], "tuned": tuned}
    harness = compile_harness(task, target, folder)
    calls = {}
    for name, tile in tiles.items():
        library = build_candidate(task, tile, target, harness, folder / name)
        given, _ = inputs_and_answer(task, tile)
        calls[name] = lambda library=library, given=given: (
            min(runner.run_library(library, describe(task, target), given, 1, 5, 60.0)[0].samples_ms) / task.repeats
        )
    return compare(in_turns(calls, rounds))


def stock(task: Task, seconds: float) -> dict[str, Any]:
    """What MetaSchedule finds alone for one product: the best schedule's ms, None of no result; or why it failed."""
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
        folder = Path(name)
        (folder / "task").write_bytes(pickle.dumps(task))
        command = [sys.executable, "-c", SEARCH, name]
        # MetaSchedule's workers outlive it: as one session they can be ended together.
        with (folder / "log").open("w") as log:
            search = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                search.wait(seconds)
            ended = search.poll()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(search.pid, signal.SIGKILL)
            search.wait()
        if ended:
            said = (folder / "log").read_text(errors="replace").strip().splitlines() or [f"status {ended}"]
            return {"failed": said[-1].strip()}
        records = folder / "records.json"
        lines = records.read_text().splitlines() if records.exists() else []
    measured = [1e3 * min(json.loads(line)[1][1]) for line in lines if line.endswith("]")]
    good = [ms for ms in measured if ms < UNMEASURED_MS]
    if measured and not good:
        return {"failed": f"none of its {len(measured)} schedules ran"}
    return {"ms": min(good, default=None), "schedules": len(good)}


def search_alone(folder: str) -> None:
    """Stock MetaSchedule on the task in `folder` until it is killed. Its records: workload, (trace, seconds, …)."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    task = pickle.loads(Path(folder, "task").read_bytes())
    with tensor_intrinsics(INTRINSICS[host_target().arch]):
        ms.tir_integration.tune_tir(
            tvm.IRModule({"main": workload(0, task)}),
            tvm.target.Target(host_target().llvm(num_cores=1)),
            folder,
            max_trials_global=10_000,
            num_trials_per_iter=8,
            database=ms.database.JSONDatabase(f"{folder}/workloads.json", f"{folder}/records.json"),
            num_tuning_cores=2,
            seed=1,
        )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    target = host_target()
    path = args.db or shipped(target.cpu)
    if path is None:
        raise CompileError(
            f"no database is shipped for {target.cpu.name}: make one with python -m tune kernels, and give it with --db"
        )
    chosen = read(path, target.cpu).chosen
    runner = LocalRunner()
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
        folder = Path(name)
        onnx_file = export(args.model, args.layers, folder)
        artifacts = {
            name: compile.build(onnx_file, target="host", out=folder / name, db=db).folder
            for name, db in (("default", "none"), ("tuned", path))
        }
        whole = {threads: whole_model(artifacts, threads, args.rounds, runner) for threads in args.threads}
        rows = []
        for task in tasks_of(program_of(onnx_file, target, SEQUENCE))[: args.tasks]:
            record = chosen.get(task.key)
            tile = record.tile if record else DEFAULT_TILES[task.key.isa, task.key.precision]
            row = one_task(task, tile, args.rounds, runner, folder / task.name.replace(" ", "-"))
            rows.append({"task": task.name, "tile": f"{tile} ×{tile.k_unroll}", "gflop": task.flops / 1e9, **row})
            if task.key.family == "linear" and args.stock_seconds:
                plain = replace(task, kernel=replace(task.kernel, bias=False, steps=(), strides=()))
                rows[-1]["stock"] = stock(plain, args.stock_seconds)
    device = this_machine(runner.cores)
    return {
        "machine": device.name,
        "cores": len(device.cores),
        "model": args.model,
        "rounds": args.rounds,
        "whole": whole,
        "tasks": rows,
        "date": time.strftime("%F"),
    }


def show(result: dict[str, Any]) -> None:
    where = f"{result['machine']}, {result['cores']} cores, {result['date']}"
    print(f"{result['model']}, {SEQUENCE} tokens, float32 — {where}")
    print(f"medians of the ratio in {result['rounds']} rounds in turns; ms are the least disturbed run's\n")
    print(f"{'whole model':<20} {'default ms':>11} {'tuned ms':>9} {'tuned is':>22}")
    for threads, row in result["whole"].items():
        faster = f"{1 / row['tuned_of_default'] - 1:+.1%} faster"
        print(
            f"{threads} thread{'s' * (threads > 1):<13} {row['default_ms']:>11.1f} {row['tuned_ms']:>9.1f} {faster:>22}"
        )
    print(f"\n{'task':<16} {'tile':>10} {'default GFLOP/s':>16} {'tuned':>7} {'tuned is':>15} {'stock':>7}")
    for row in result["tasks"]:
        default, tuned = (1e3 * row["gflop"] / row[f"{name}_ms"] for name in ("default", "tuned"))
        alone = stock_cell(row)
        faster = f"{1 / row['tuned_of_default'] - 1:+.1%} faster"
        print(f"{row['task']:<16} {row['tile']:>10} {default:>16.1f} {tuned:>7.1f} {faster:>15} {alone:>7}")
    for row in result["tasks"]:
        if reason := row.get("stock", {}).get("failed"):
            print(f"stock failed on {row['task']}: {reason}")


def stock_cell(row: dict[str, Any]) -> str:
    """GFLOP/s; "none": no result in its time; "failed": it ended before, or nothing that it made ran."""
    stock = row.get("stock")
    if not stock:
        return ""
    if "failed" in stock:
        return "failed"
    return f"{1e3 * row['gflop'] / stock['ms']:.1f}" if stock["ms"] else "none"


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--model", choices=core.PRESETS, default="mobilebert", metavar="PRESET")
    parser.add_argument("--layers", type=LAYERS, help="instead of the preset's, for a quick look")
    parser.add_argument("--db", type=Path, help="tuning database (default: the one shipped for this CPU)")
    parser.add_argument("--threads", type=THREADS, nargs="+", default=[1, 2])
    heaviest = "tasks to compare, the heaviest first (default: 3)"
    parser.add_argument("--tasks", type=number(int, 0, 100), default=3, help=heaviest)
    seconds = number(float, 0, 86400)
    parser.add_argument("--stock-seconds", type=seconds, default=28.0, help="for stock on a task; 0: leave it out")
    parser.add_argument("--rounds", type=RUNS, default=15, help="turns that each comparison takes (default: 15)")
    # Asked to end, it ends its searches first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
