"""What tuning gains on this machine: tuned tiles, the default tiles, and stock MetaSchedule given the same time.

    python benchmarks/tuning.py [--model mobilebert] [--db FILE] [--tasks 3] [--stock-seconds 28] [--rounds 15] [--json]

Two questions. Whole model: one library with the default tiles and one with the database's, in turns. Linear tasks: each
kernel with its default and its tuned tile, in turns, on weights that come from memory; beside them the best that
MetaSchedule finds by itself (its own rules, evolutionary search, its own cost model) in the seconds that a task of our
session takes. Stock's figure is its own: timed on weights that lie in the cache, which is kind to it.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import compile
import model as core
from compile.databases import read, shipped
from compile.kernels.tiles import DEFAULT_TILES
from compile.targets import host_target
from tune.kernels.library import build_candidate, compile_harness, describe
from tune.kernels.model import program_of
from tune.kernels.search import without_tensor_intrinsics, workload
from tune.kernels.tasks import Task, inputs_and_answer, tasks_of
from tune.runners.local import LocalRunner, this_machine

SEQUENCE = 128


def export(preset: str, folder: Path) -> Path:
    path = folder / f"{preset}.onnx"
    module = core.create(preset)
    core.randomize_norms(module)
    core.export(module, path, seq_len=SEQUENCE, batch=1)
    return path


def in_turns(calls: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Every call's ms in each round; the order turns round, too."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in calls if turn % 2 else reversed(calls):
            taken[name].append(calls[name]())
    return taken


def compare(taken: dict[str, list[float]]) -> dict[str, float]:
    ratio = median(t / d for t, d in zip(taken["tuned"], taken["default"], strict=True))
    return {"default_ms": min(taken["default"]), "tuned_ms": min(taken["tuned"]), "tuned_of_default": ratio}


def whole_model(artifacts: dict[str, Path], threads: int, rounds: int, runner: LocalRunner) -> dict[str, float]:
    calls = {
        name: lambda folder=folder: min(runner.measure(folder, threads=threads, runs=5).samples_ms)
        for name, folder in artifacts.items()
    }
    return compare(in_turns(calls, rounds))


def one_task(task: Task, tuned: Any, rounds: int, runner: LocalRunner, folder: Path) -> dict[str, float]:
    target = host_target()
    tiles = {"default": DEFAULT_TILES[target.isa.name, "f32"], "tuned": tuned}
    harness = compile_harness(task, target, folder)
    calls = {}
    for name, tile in tiles.items():
        library = build_candidate(task, tile, target, harness, folder / name)
        given, _ = inputs_and_answer(task, tile)
        calls[name] = lambda library=library, given=given: (
            min(runner.run_library(library, describe(task, target), given, 1, 5, 60.0)[0].samples_ms) / task.repeats
        )
    return compare(in_turns(calls, rounds))


def stock(task: Task, seconds: float) -> float | None:
    """ms of one product by the best schedule that MetaSchedule finds alone; None if it finds none in that time."""
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as folder:
        process = multiprocessing.get_context("spawn").Process(target=search_alone, args=(task, folder))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        records = Path(folder, "records.json")
        lines = records.read_text().splitlines() if records.exists() else []
    return min((1e3 * min(json.loads(line)[1][1]) for line in lines if line.endswith("]")), default=None)


def search_alone(task: Task, folder: str) -> None:
    """Stock MetaSchedule on one task until it is killed. Its records are lines: workload, (trace, seconds, …)."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    with without_tensor_intrinsics():
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


def run(args: argparse.Namespace) -> dict[str, Any]:
    target = host_target()
    path = args.db or shipped(target.cpu)
    if path is None:
        sys.exit(
            f"no database is shipped for {target.cpu.name}: make one with python -m tune kernels, and give it with --db"
        )
    chosen = read(path, target.cpu).chosen
    runner = LocalRunner()
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
        folder = Path(name)
        onnx_file = export(args.model, folder)
        artifacts = {
            name: compile.build(onnx_file, target="host", out=folder / name, db=db).folder
            for name, db in (("default", "none"), ("tuned", path))
        }
        whole = {threads: whole_model(artifacts, threads, args.rounds, runner) for threads in args.threads}
        rows = []
        tasks = [t for t in tasks_of(program_of(onnx_file, target, SEQUENCE)) if t.key.family == "linear"]
        for task in tasks[: args.tasks]:
            record = chosen.get(task.key)
            tile = record.tile if record else DEFAULT_TILES[target.isa.name, "f32"]
            row = one_task(task, tile, args.rounds, runner, folder / task.name.replace(" ", "-"))
            plain = replace(task, kernel=replace(task.kernel, bias=False, steps=()))
            rows.append({"task": task.name, "tile": f"{tile} ×{tile.k_unroll}", "gflop": task.flops / 1e9, **row})
            rows[-1]["stock_ms"] = stock(plain, args.stock_seconds) if args.stock_seconds else None
    device = this_machine(runner.cores)
    return {
        "machine": device.name,
        "cores": len(device.cores),
        "whole": whole,
        "tasks": rows,
        "date": time.strftime("%F"),
    }


def show(result: dict[str, Any], args: argparse.Namespace) -> None:
    print(f"{args.model}, {SEQUENCE} tokens, float32 — {result['machine']}, {result['cores']} cores, {result['date']}")
    print(f"medians of the ratio in {args.rounds} rounds in turns; ms are the least disturbed run's\n")
    print(f"{'whole model':<20} {'default ms':>11} {'tuned ms':>9} {'tuned is':>22}")
    for threads, row in result["whole"].items():
        faster = f"{1 / row['tuned_of_default'] - 1:+.1%} faster"
        print(
            f"{threads} thread{'s' * (threads > 1):<13} {row['default_ms']:>11.1f} {row['tuned_ms']:>9.1f} {faster:>22}"
        )
    print(f"\n{'task':<16} {'tile':>10} {'default GFLOP/s':>16} {'tuned':>7} {'tuned is':>15} {'stock':>7}")
    for row in result["tasks"]:
        default, tuned = (1e3 * row["gflop"] / row[f"{name}_ms"] for name in ("default", "tuned"))
        alone = f"{1e3 * row['gflop'] / row['stock_ms']:.1f}" if row["stock_ms"] else "none"
        faster = f"{1 / row['tuned_of_default'] - 1:+.1%} faster"
        print(f"{row['task']:<16} {row['tile']:>10} {default:>16.1f} {tuned:>7.1f} {faster:>15} {alone:>7}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilebert", help="a preset (default: mobilebert)")
    parser.add_argument("--db", type=Path, help="tuning database (default: the one shipped for this CPU)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tasks", type=int, default=3, help="linear tasks to compare, the heaviest first (default: 3)")
    parser.add_argument("--stock-seconds", type=float, default=28.0, help="for stock on a task; 0: leave it out")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = run(args)
    print(json.dumps(result, indent=2)) if args.json else show(result, args)


if __name__ == "__main__":
    main()
