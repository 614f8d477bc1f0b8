"""Latency of the compiled library beside its peers, interleaved in one run on this machine.

    python benchmarks/latency.py [--model mobilebert] [--threads 1 2] [--runs 30] [--json]

Seeded random weights with NoNorm weights and biases random too (at 1 and 0 an optimiser could drop them). Medians; the
share of peak is against the multiply-add rate of one core, measured between the models' runs. A peer that is not
installed is named: `pip install -e '.[bench]'` brings those that have wheels.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnx

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import compile
import model as core
import passes
from compile.load import read_manifest
from compile.profile.machine import cpu_name, measure_peak
from compile.verify import random_samples

SEQUENCE = 128
ABSENT = {"LiteRT": "ai_edge_litert", "ExecuTorch": "executorch", "MNN": "MNN"}


def paths(folder: Path) -> tuple[Path, Path, Path]:
    """The exported model, what onnxsim makes of it, and what all our passes make of it."""
    exported, simplified, optimised = (folder / f"{name}.onnx" for name in ("exported", "onnxsim", "passes"))
    return exported, simplified, optimised


def prepare(preset: str, folder: Path) -> None:
    """Write those files, and the compiled library."""
    exported, simplified, optimised = paths(folder)
    module = core.create(preset)
    core.randomize_norms(module)
    core.export(module, exported, seq_len=SEQUENCE, batch=1)
    onnx.save(passes.run(exported, only=["onnxsim"], verify=False)[0], simplified)
    onnx.save(passes.run(exported, verify=False)[0], optimised)
    compile.build(exported, target="host", out=folder / "artifact")


def onnxruntime_peer(path: Path, threads: int, sample: dict) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, sample)


def openvino_peer(path: Path, threads: int, sample: dict) -> Callable[[], object]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer(sample)


def contenders(folder: Path, count: int) -> tuple[dict[str, Callable[[], object]], int, list[str]]:
    """What to time with `count` threads, by name; the FLOPs of one inference; the peers that are absent."""
    exported, simplified, optimised = paths(folder)
    manifest = read_manifest(folder / "artifact")
    sample = random_samples(manifest, 1)[0]
    sample["attention_mask"] = np.ones_like(sample["attention_mask"])
    library = compile.load(folder / "artifact", threads=count)
    found: dict[str, Callable[[], object]] = {
        f"PocketBERT, {count} thread": lambda: library.run(sample),
        f"ONNX Runtime on onnxsim's graph, {count} thread": onnxruntime_peer(simplified, count, sample),
        f"ONNX Runtime on our passes' graph, {count} thread": onnxruntime_peer(optimised, count, sample),
    }
    absent = [name for name, package in ABSENT.items() if not importlib.util.find_spec(package)]
    if importlib.util.find_spec("openvino"):
        found[f"OpenVINO, {count} thread"] = openvino_peer(exported, count, sample)
    else:
        absent.append("OpenVINO")
    if SEQUENCE > 32 and manifest["shorter_sequences"]:
        short = {name: array[:, :32] for name, array in sample.items()}
        found[f"PocketBERT, {count} thread, 32 tokens"] = lambda: library.run(short)
    return found, manifest["flops"], absent


def measure(folder: Path, count: int, runs: int) -> dict:
    """One number of threads, in a process of its own: other runs' threads that wait by spinning would be timed too."""
    timed, flops, absent = contenders(folder, count)
    rate = measure_peak(folder)
    samples: dict[str, list[float]] = {key: [] for key in timed}
    peaks = []
    for turn in range(runs + 2):
        peaks.append(rate())
        for key, call in timed.items():
            start = time.perf_counter()
            call()
            if turn >= 2:  # the first two warm caches and clocks
                samples[key].append((time.perf_counter() - start) * 1e3)
    peak = median(peaks)
    rows = []
    for key, values in samples.items():
        share = None if "32 tokens" in key else flops / (median(values) * 1e6) / (peak * count)
        rows.append({"name": key, "median_ms": median(values), "min_ms": min(values), "share_of_peak": share})
    return {"flops": flops, "peak": peak, "absent": absent, "rows": rows}


def run(preset: str, threads: list[int], runs: int) -> dict:
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
        folder = Path(name)
        prepare(preset, folder)
        parts = []
        for count in threads:
            command = [sys.executable, __file__, "--prepared", name, "--threads", str(count), "--runs", str(runs)]
            parts.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    flops, peak = parts[0]["flops"], median(part["peak"] for part in parts)
    return {
        "machine": f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "date": time.strftime("%Y-%m-%d"),
        "model": preset,
        "tokens": SEQUENCE,
        "gflop": flops / 1e9,
        "peak_gflops_per_core": peak,
        "floor_ms": flops / peak / 1e6,
        "runs": runs,
        "versions": {p: importlib.metadata.version(p) for p in ("onnxruntime", "apache-tvm", "torch")},
        "absent": parts[0]["absent"],
        "results": [row for part in parts for row in part["rows"]],
    }


def show(result: dict) -> None:
    print(f"{result['model']}, {result['tokens']} tokens, float32 — {result['machine']}, {result['date']}")
    print(
        f"{result['gflop']:.2f} GFLOP; peak {result['peak_gflops_per_core']:.1f} GFLOP/s a core, so no less than "
        f"{result['floor_ms']:.1f} ms on one; medians of {result['runs']} interleaved runs"
    )
    print(f"{'':<48} {'median ms':>10} {'min ms':>8} {'× ours':>7} {'of peak':>8}")
    for row in result["results"]:
        if row["name"].startswith("PocketBERT") and row["share_of_peak"]:
            base = row["median_ms"]  # the first of each number of threads
        share = f"{row['share_of_peak']:.0%}" if row["share_of_peak"] else ""
        ratio = row["median_ms"] / base
        print(f"{row['name']:<48} {row['median_ms']:>10.1f} {row['min_ms']:>8.1f} {ratio:>7.2f} {share:>8}")
    if result["absent"]:
        print(f"not installed: {', '.join(result['absent'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilebert", help="a preset (default: mobilebert)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prepared", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepared:
        print(json.dumps(measure(args.prepared, args.threads[0], args.runs)))
        return
    result = run(args.model, args.threads, args.runs)
    print(json.dumps(result, indent=2)) if args.json else show(result)


if __name__ == "__main__":
    main()
