"""WebAssembly beside ONNX Runtime's: in headless Chromium, or in Node.js, a process for each turn. One thread.

    npm install --prefix FOLDER onnxruntime-web
    python benchmarks/web.py --peer FOLDER [--browser] [--model mobilebert] [--runs 10] [--turns 3] [--json]

Both run the same ONNX file in float32, and in int8 what each makes of it: ours --precision int8, theirs the file that
`quantize_dynamic` writes. All sides take turns; the figures are medians over all runs of all turns.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
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
from benchmarks.chromium import run_page
from benchmarks.command import LAYERS, RUNS, measure_and_show, new_parser, number
from benchmarks.interleaved import heading, machine, progress_console
from benchmarks.presets import SEQUENCE, export
from compile.errors import CompileError
from compile.running.load import read_manifest
from compile.running.runners import node
from compile.running.samples import full_sample

PEERS = Path(__file__).parent / "peers"
# all-MiniLM-L6-v2's architecture.
MINILM_NAME = "minilm-l6"
MINILM = {"num_hidden_layers": 6, "hidden_size": 384, "embedding_size": 384, "intermediate_size": 1536}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from onnxruntime.quantization import quantize_dynamic

    if not args.browser and (lacking := node.missing()):
        raise CompileError(f"modules run here only with {lacking}: install it")
    if args.peer and not (args.peer / "node_modules" / "onnxruntime-web").is_dir():
        raise CompileError(f"--peer {args.peer}: npm install --prefix {args.peer} onnxruntime-web")
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as work:
        folder = Path(work)
        with progress_console.status("compile"):
            source = (
                minilm(args.layers, folder) if args.model == "minilm-l6" else export(args.model, args.layers, folder)
            )
            source = source.rename(folder / "float32.onnx")
            artifacts = {
                precision: compile.build(source, target="wasm32", precision=precision, out=folder / precision).folder
                for precision in ("float32", "int8")
            }
            quantize_dynamic(source, folder / "int8.onnx")
        facts = {precision: read_manifest(artifact) for precision, artifact in artifacts.items()}
        sample = full_sample(facts["float32"])
        inputs = {name: values.ravel().tolist() for name, values in sample.items()}
        (folder / "inputs.json").write_text(json.dumps(inputs))
        times = in_page(folder, args) if args.browser else in_node(folder, artifacts, args)
    rows = {name: {"median_ms": median(values), "least_ms": min(values)} for name, values in times.items()}
    sizes = {precision: manifest.sizes.library_bytes for precision, manifest in facts.items()}
    result = {"machine": machine(), "engine": "Chromium" if args.browser else "Node.js", "model": args.model}
    return result | {"tokens": facts["int8"].tokens, "bytes": sizes, "results": rows}


def minilm(layers: int | None, folder: Path) -> Path:
    sizes = MINILM | ({"num_hidden_layers": layers} if layers else {})
    module = core.create(replace(core.PRESETS["bert-base"], **sizes))
    core.randomize_norms(module)
    return core.export(module, folder / f"{MINILM_NAME}.onnx", seq_len=SEQUENCE, batch=1)


def in_node(folder: Path, artifacts: dict[str, Path], args: argparse.Namespace) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    with node.NodeRunner() as runner:
        for _ in track(range(args.turns), "turns", console=progress_console, transient=True):
            for precision, artifact in artifacts.items():
                facts = read_manifest(artifact)
                measured, _ = runner.run_library(artifact / facts.library, facts, full_sample(facts), 1, args.runs, 600)
                times.setdefault(f"PocketBERT, {precision}", []).extend(measured.samples_ms)
                if args.peer:
                    theirs = peer(args.peer, folder / f"{precision}.onnx", folder / "inputs.json", args.runs)
                    times.setdefault(f"onnxruntime-web, {precision}", []).extend(theirs)
    return times


def peer(folder: Path, model: Path, inputs: Path, runs: int) -> list[float]:
    command = [*(node.command() or []), str(PEERS / "onnxruntime_web.mjs"), str(model), str(inputs), str(runs)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise CompileError(f"onnxruntime-web failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return [int(line) / 1e6 for line in done.stdout.split()]


def in_page(folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """One page for each precision."""
    times: dict[str, list[float]] = {}
    shutil.copy(PEERS / "page.mjs", folder)
    if args.peer:
        place = args.peer.resolve() / "node_modules" / "onnxruntime-web" / "dist"
        os.symlink(place, folder / "onnxruntime-web", target_is_directory=True)
    inputs = json.loads((folder / "inputs.json").read_text())
    for precision in ("float32", "int8"):
        theirs = {f"onnxruntime-web, {precision}": f"{precision}.onnx"} if args.peer else {}
        task = {"ours": {f"PocketBERT, {precision}": precision}, "theirs": theirs, "inputs": inputs}
        (folder / "task.json").write_text(json.dumps(task | {"runs": args.runs, "turns": args.turns}))
        times |= run_page(folder, timeout=600)
    return times


def show(result: dict[str, Any]) -> None:
    console = Console()
    what = f"{result['model']}, {result['tokens']} tokens, {result['engine']}"
    console.print(f"{what}; {heading(result['machine'])}", soft_wrap=True)
    table = Table("", Column("median, ms", justify="right"), Column("least", justify="right"))
    for name, row in result["results"].items():
        table.add_row(name, f"{row['median_ms']:.1f}", f"{row['least_ms']:.1f}")
    console.print(table)
    console.print(", ".join(f"{precision}: {size / 1e6:.1f} MB" for precision, size in result["bytes"].items()))


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--model", choices=[*core.PRESETS, MINILM_NAME], default="mobilebert", metavar="PRESET")
    parser.add_argument("--browser", action="store_true", help="in headless Chromium, not Node.js")
    parser.add_argument("--layers", type=LAYERS, help="instead of the preset's, for a quick look")
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="where onnxruntime-web is installed")
    parser.add_argument("--runs", type=RUNS, default=10, help="a turn (default: 10)")
    parser.add_argument("--turns", type=number(int, 1, 100), default=3, help="default: 3")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
