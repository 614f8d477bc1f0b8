"""What starting a model costs: time to the first result, memory beside the weights, several models at once.

    python benchmarks/startup.py [--model mobilebert | --artifact FOLDER] [--threads 1] [--models 4] [--json]

Measured by a small C program (startup.c) that loads the library as an app would, in a process of its own for each
start, with the library in the page cache. Memory is from /proc/self/smaps: dirty private pages, less the caller's own
tensors and what the program held before; the library's read-only pages, weights and code, are the page cache's and
counted apart. Of the models at once each runs as often as one had run alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import model as core
from benchmarks.command import LAYERS, RUNS, measure_and_show, new_parser, number
from benchmarks.interleaved import heading, machine, progress_console
from benchmarks.presets import build
from compile.linking.link import find_toolchain, run_compiler
from compile.running.load import read_manifest
from compile.targets import host_target

MOST_MODELS, MOST_THREADS = 64, 64  # of startup.c, and of a library
PHASES = ("load", "open", "first_run")


def build_program(artifact: Path, folder: Path) -> Path:
    """startup.c, compiled like an app's program against the artifact's headers."""
    source, program = Path(__file__).with_suffix(".c"), folder / "startup"
    options = ["-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pthread", "-I", str(artifact / "include")]
    run_compiler(find_toolchain(host_target()), [*options, str(source), "-o", str(program), "-ldl"], folder)
    return program


def start(program: Path, artifact: Path, threads: int, models: int, runs: int) -> dict[str, int]:
    """One process: startup.c's figures by name."""
    manifest = read_manifest(artifact)
    library = (artifact / manifest.library).resolve()
    command = [program, library, manifest.name, threads, models, runs]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip() or f"startup ended with status {done.returncode}")
    return {key: int(value) for key, value in map(str.split, done.stdout.splitlines())}


def memory(figures: dict[str, int], when: str) -> int:
    """Bytes that the library's models hold by themselves."""
    return figures[f"{when}_dirty_bytes"] - figures["before_dirty_bytes"] - figures[f"{when}_buffer_bytes"]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as work:
        folder = Path(work)
        with progress_console.status("compile"):
            artifact = args.artifact or build(args.model, args.layers, folder)
            manifest = read_manifest(artifact)
            program = build_program(artifact, folder)
            with (artifact / manifest.library).open("rb") as library:
                os.fsync(library.fileno())  # pages of it that wait for the disk would count as dirty
        start(program, artifact, args.threads, 1, 0)  # the page cache
        turns = track(range(args.processes), "starts", console=progress_console, transient=True)
        starts = [start(program, artifact, args.threads, 1, 0) for _ in turns]
        with progress_console.status(f"{args.models} models at once"):
            crowd = start(program, artifact, args.threads, args.models, args.runs)
    result = {f"{phase}_ms": median(s[f"{phase}_ns"] for s in starts) / 1e6 for phase in PHASES}
    totals = [sum(s[f"{phase}_ns"] for phase in PHASES) / 1e6 for s in starts]
    alone, together = (crowd[f"{how}_ns"] / 1e6 / args.runs for how in ("alone", "together"))
    return {
        "machine": machine(),
        "model": manifest.name,
        "tokens": manifest.tokens,
        "precision": manifest.precision,
        "threads": args.threads,
        "processes": args.processes,
        **result,
        "first_result_ms": median(totals),
        "first_result_least_ms": min(totals),
        "memory_bytes": median(memory(s, "one") for s in starts),
        "library_mapped_bytes": starts[0]["one_mapped_bytes"],
        "models": args.models,
        "runs": args.runs,
        "alone_ms": alone,
        "together_ms": together,
        "throughput_ratio": args.models * alone / together,
        "models_memory_bytes": memory(crowd, "all"),
        "models_mapped_bytes": crowd["all_mapped_bytes"],
    }


def show(result: dict[str, Any]) -> None:
    console = Console()
    threads = f"threads a model: {result['threads'] or 'the default'}"
    model = f"{result['model']}, {result['tokens']} tokens, {result['precision']}"
    title = f"{model}, {threads}; {heading(result['machine'])}"
    console.print(title, soft_wrap=True)
    table = Table("", Column("", justify="right"), show_header=False)
    count = result["models"]
    ms = {
        "load the library": "load_ms",
        "open a model": "open_ms",
        "first run": "first_run_ms",
        f"start to first result, median of {result['processes']} processes": "first_result_ms",
        "its least": "first_result_least_ms",
        "a later run": "alone_ms",
        f"a run of each of {count} models at once": "together_ms",
    }
    for name, key in ms.items():
        table.add_row(name, f"{result[key]:.2f} ms")
    table.add_row(f"runs a second, {count} models beside one", f"{result['throughput_ratio']:.2f} ×")
    sizes = {
        "memory of one model, beside the mapped library": "memory_bytes",
        f"memory of {count} models": "models_memory_bytes",
        "library's pages mapped by one": "library_mapped_bytes",
        f"library's pages mapped by {count}": "models_mapped_bytes",
    }
    for name, key in sizes.items():
        table.add_row(name, f"{result[key] / (1 << 20):.2f} MiB")
    console.print(table)


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--model", choices=core.PRESETS, default="mobilebert", metavar="PRESET")
    parser.add_argument("--layers", type=LAYERS, help="instead of the preset's, for a quick look")
    parser.add_argument("--artifact", type=Path, metavar="FOLDER", help="built for this machine, instead of a preset")
    parser.add_argument(
        "--threads",
        type=number(int, 0, MOST_THREADS),
        default=1,
        help="of a model; 0: the library's default (default: 1)",
    )
    parser.add_argument("--processes", type=RUNS, default=15, help="starts (default: 15)")
    parser.add_argument(
        "--models", type=number(int, 1, MOST_MODELS), default=4, help="open and running at once (default: 4)"
    )
    parser.add_argument("--runs", type=RUNS, default=20, help="of each of them (default: 20)")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
