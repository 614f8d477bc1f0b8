"""The papers' latency columns on this machine: BERT_BASE, MobileBERT, MobileBERT_TINY, and norms and activations.

    python benchmarks/papers.py [--threads 2] [--runs 20] [--json]

Table 4 and Table 7 of the ACL paper give ms on a Pixel 4 with TensorFlow Lite and four threads. Here every architecture
is compiled for this machine, with random weights, norms and biases, 128 tokens, float32, and all take turns in one
process; so does ONNX Runtime with BERT_BASE as onnxsim leaves it. Milliseconds do not compare between machines, the
ratios to BERT_BASE and to MobileBERT do: medians of each turn's ratio.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import onnxruntime
from rich.console import Console
from rich.table import Column, Table

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import compile
import passes
from benchmarks.command import LAYERS, RUNS, THREADS, measure_and_show, new_parser
from benchmarks.interleaved import heading, in_turns, machine, paired_ratio, progress_console
from benchmarks.presets import SEQUENCE, build
from compile.running.samples import full_sample
from model.presets import PAPER

BERT, MOBILEBERT = "BERT_BASE", "MobileBERT"
REFERENCE = f"{BERT} in ONNX Runtime"
# Name, preset, the papers' ms.
MODELS = [  # MobileBERT itself is NoNorm & relu
    (BERT, "bert-base", 342),
    (MOBILEBERT, "mobilebert", 62),
    ("MobileBERT_TINY", "mobilebert-tiny", 40),
    ("w/o OPT: LayerNorm & gelu", "mobilebert-without-opt", 192),
    ("LayerNorm & relu", "mobilebert-layernorm-relu", 167),
    ("NoNorm & gelu", "mobilebert-nonorm-gelu", 92),
]
PAPER_MS = {name: ms for name, _, ms in MODELS}
COLUMNS = ("GFLOP", "ms", "GFLOP/s", "× BERT", "paper's", "× Mobile", "paper's")


def runner(library: compile.Library) -> Callable[[], None]:
    sample = full_sample(library.manifest)

    def call() -> None:
        library.run(sample)

    return call


def reference(exported: Path, sample: dict[str, Any], threads: int) -> Callable[[], None]:
    """ONNX Runtime on onnxsim's graph."""
    simplified = exported.with_suffix(".onnxsim.onnx")
    onnx.save(passes.run(exported, only=["onnxsim"], verify=False)[0], simplified)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(simplified), options, providers=["CPUExecutionProvider"])

    def call() -> None:
        session.run(None, sample)

    return call


def measure(args: argparse.Namespace) -> dict[str, Any]:
    models = [model for model in MODELS if model[0] in (BERT, MOBILEBERT) or model[1] in args.only]
    libraries: dict[str, compile.Library] = {}
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as work:
        folder = Path(work)
        with progress_console.status("") as status:
            for name, preset, _ in models:
                status.update(f"compile {name}")
                libraries[name] = compile.load(build(preset, args.layers, folder), threads=args.threads)
            status.update(f"simplify {BERT} for ONNX Runtime")
            peer = reference(folder / "bert-base.onnx", full_sample(libraries[BERT].manifest), args.threads)
        calls = {name: runner(library) for name, library in libraries.items()} | {REFERENCE: peer}
        times = in_turns(calls, args.runs, f"{args.threads} threads")
    rows = []
    for name, preset, paper_ms in [*models, (REFERENCE, "bert-base", None)]:
        row: dict[str, Any] = {"name": name, "preset": preset, "median_ms": median(times[name])}
        row |= {"min_ms": min(times[name]), "paper_ms": paper_ms, "paper_gflop": PAPER[preset].flops}
        row["gflop"] = libraries[BERT if name == REFERENCE else name].manifest.flops / 1e9
        for key, base in (("of_bert_base", BERT), ("of_mobilebert", MOBILEBERT)):
            row[key] = paired_ratio(times[name], times[base])
            row[f"paper_{key}"] = paper_ms and paper_ms / PAPER_MS[base]
        rows.append(row)
    return {
        "machine": machine(),
        "tokens": SEQUENCE,
        "threads": args.threads,
        "runs": args.runs,
        "onnxruntime": onnxruntime.__version__,
        "results": rows,
    }


def show(result: dict[str, Any]) -> None:
    console = Console(width=110)
    threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
    how = f"{result['tokens']} tokens, float32, {threads}, medians of {result['runs']} turns"
    console.print(f"{how}: {heading(result['machine'])}; the paper's: Pixel 4, 4 threads", soft_wrap=True)
    table = Table("", *(Column(column, justify="right") for column in COLUMNS))
    for row in result["results"]:
        figures = [f"{row['gflop']:.2f}", f"{row['median_ms']:.1f}", f"{row['gflop'] / row['median_ms'] * 1e3:.0f}"]
        for key in ("of_bert_base", "of_mobilebert"):
            figures += [f"{row[key]:.3f}", "" if row["paper_ms"] is None else f"{row[f'paper_{key}']:.3f}"]
        table.add_row(row["name"], *figures)
    console.print(table)


def main() -> int:
    parser = new_parser(__doc__)
    presets = [preset for _, preset, _ in MODELS]
    help_only = "these beside BERT_BASE and MobileBERT (default: all)"
    parser.add_argument("--only", nargs="*", choices=presets, default=presets, metavar="PRESET", help=help_only)
    parser.add_argument("--layers", type=LAYERS, help="instead of each architecture's own, for a quick look")
    parser.add_argument(
        "--threads", type=THREADS, default=min(4, os.cpu_count() or 1), help="default: one a core up to 4"
    )
    parser.add_argument("--runs", type=RUNS, default=20, help="timed turns (default: 20)")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
