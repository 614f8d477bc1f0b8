"""WebAssembly beside ONNX Runtime's, in Node.js, whose engine is Chrome's: one thread, a process for each turn.

    npm install --prefix FOLDER onnxruntime-web
    python benchmarks/web.py --peer FOLDER [--model mobilebert] [--runs 10] [--turns 3] [--json]

Both run the same ONNX file in float32, and in int8 what each makes of it: ours --precision int8, theirs the file that
`quantize_dynamic` writes. All sides take turns; the figures are medians over all runs of all turns.
"""

import argparse
import json
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

import compile
import model as core
from benchmarks.command import LAYERS, RUNS, measure_and_show, new_parser, number
from benchmarks.interleaved import heading, machine, progress_console
from benchmarks.presets import export
from compile.errors import CompileError
from compile.running.load import read_manifest
from compile.running.runners import node
from compile.running.samples import full_sample

PEER = Path(__file__).parent / "peers" / "onnxruntime_web.mjs"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from onnxruntime.quantization import quantize_dynamic

    if lacking := node.missing():
        raise CompileError(f"modules run here only with {lacking}: install it")
    if args.peer and not (args.peer / "node_modules" / "onnxruntime-web").is_dir():
        raise CompileError(f"--peer {args.peer}: npm install --prefix {args.peer} onnxruntime-web")
    times: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as work:
        folder = Path(work)
        with progress_console.status("compile"):
            source = export(args.model, args.layers, folder)
            artifacts = {
                precision: compile.build(source, target="wasm32", precision=precision, out=folder / precision).folder
                for precision in ("float32", "int8")
            }
            quantize_dynamic(source, folder / "int8.onnx")
        facts = {precision: read_manifest(artifact) for precision, artifact in artifacts.items()}
        sample = full_sample(facts["float32"])
        inputs = folder / "inputs.json"
        inputs.write_text(json.dumps({name: values.ravel().tolist() for name, values in sample.items()}))
        models = {"float32": source, "int8": folder / "int8.onnx"}
        for precision, artifact in artifacts.items():
            sizes[precision] = (artifact / facts[precision].library).stat().st_size
        with node.NodeRunner() as runner:
            for _ in track(range(args.turns), "turns", console=progress_console, transient=True):
                for precision, artifact in artifacts.items():
                    library = artifact / facts[precision].library
                    measured, _ = runner.run_library(library, facts[precision], sample, 1, args.runs, 600)
                    times.setdefault(f"PocketBERT, {precision}", []).extend(measured.samples_ms)
                    if args.peer:
                        theirs = peer(args.peer, models[precision], inputs, args.runs)
                        times.setdefault(f"onnxruntime-web, {precision}", []).extend(theirs)
    rows = {name: {"median_ms": median(values), "least_ms": min(values)} for name, values in times.items()}
    return {"machine": machine(), "model": args.model, "tokens": facts["int8"].tokens, "bytes": sizes, "results": rows}


def peer(folder: Path, model: Path, inputs: Path, runs: int) -> list[float]:
    command = [*(node.command() or []), str(PEER), str(model), str(inputs), str(runs)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise CompileError(f"onnxruntime-web failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return [int(line) / 1e6 for line in done.stdout.split()]


def show(result: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{result['model']}, {result['tokens']} tokens; {heading(result['machine'])}", soft_wrap=True)
    table = Table("", Column("median, ms", justify="right"), Column("least", justify="right"))
    for name, row in result["results"].items():
        table.add_row(name, f"{row['median_ms']:.1f}", f"{row['least_ms']:.1f}")
    console.print(table)
    console.print(", ".join(f"{precision}: {size / 1e6:.1f} MB" for precision, size in result["bytes"].items()))


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--model", choices=core.PRESETS, default="mobilebert", metavar="PRESET")
    parser.add_argument("--layers", type=LAYERS, help="instead of the preset's, for a quick look")
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="where onnxruntime-web is installed")
    parser.add_argument("--runs", type=RUNS, default=10, help="a turn (default: 10)")
    parser.add_argument("--turns", type=number(int, 1, 100), default=3, help="default: 3")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
