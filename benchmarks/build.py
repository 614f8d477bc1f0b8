"""What one build costs: wall time and the most memory that it and its children held, beside the promised bounds.

python benchmarks/build.py [MODEL] [--target arm64-android] [--json]
"""

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

# A script's own folder comes first on the path; the project's root must.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.command import measure_and_show, new_parser
from compile.artifact.manifest import Manifest
from compile.running.load import read_manifest

BOUND_SECONDS = 90
BOUND_GIB = 4
# Nodes of a chain of element-wise operators: ten times as many may take ten times as long, and a bit for noise.
NODES = (2000, 20000)
BOUND_RATIO = 12


def build(model: str, target: str, folder: str, *options: str) -> tuple[float, Manifest]:
    """Wall time in seconds, and the manifest."""
    command = [sys.executable, "-m", "compile", model, "--target", target, "--out", f"{folder}/artifact", *options]
    start = time.perf_counter()
    done = subprocess.run([*command, "--json"], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # the build has said why
    return time.perf_counter() - start, read_manifest(Path(folder, "artifact"))


def chain_seconds(nodes: int, target: str, folder: str) -> float:
    """What all phases take of a chain of `nodes` additions, tanhs and relus."""
    names = [f"t{i}" for i in range(nodes)]
    operators = ("Add", "Tanh", "Relu")
    chain = [
        helper.make_node(op, [names[i - 1] if i else "x", *(["x"] if op == "Add" else [])], [name])
        for i, (name, op) in enumerate(zip(names, itertools.cycle(operators), strict=False))
    ]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8, 64]) for name in ("x", names[-1]))
    model = helper.make_model(helper.make_graph(chain, "chain", [x], [y]), opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, f"{folder}/chain.onnx")
    _, manifest = build(f"{folder}/chain.onnx", target, folder, "--seq-len", "8")
    return sum(manifest.build_seconds.values())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as folder:
        seconds, manifest = build(args.model, args.target, folder)
        chains = {nodes: chain_seconds(nodes, args.target, folder) for nodes in NODES}
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    return {
        "model": args.model,
        "target": args.target,
        "seconds": seconds,
        "bound_seconds": BOUND_SECONDS,
        "peak_gib": gib,
        "bound_gib": BOUND_GIB,
        "cores": os.cpu_count(),
        "library_over_weights": manifest.sizes.library_bytes / manifest.sizes.weights_bytes,
        "phases": manifest.build_seconds,
        "chain_seconds": chains,
    }


def show(result: dict[str, Any]) -> None:
    print(f"python -m compile {result['model']} --target {result['target']}, on {result['cores']} cores")
    print(f"wall time    {result['seconds']:6.1f} s    (bound {BOUND_SECONDS} s)")
    print(f"peak memory  {result['peak_gib']:6.2f} GiB  (bound {BOUND_GIB} GiB)")
    print(f"library size {result['library_over_weights']:6.4f} × the weights")
    for phase, seconds in result["phases"].items():
        print(f"  {phase:<24} {seconds:6.1f} s")
    chains = result["chain_seconds"]
    for nodes, seconds in chains.items():
        print(f"{nodes} nodes one after another: {seconds:.1f} s")
    ratio = chains[NODES[1]] / chains[NODES[0]]
    print(f"ten times as many nodes take {ratio:.1f} times as long (bound {BOUND_RATIO})")


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("model", nargs="?", default="mobilebert", help="what `python -m compile` takes")
    parser.add_argument("--target", default="arm64-android", help="default: arm64-android")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
