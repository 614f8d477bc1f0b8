"""What one build costs: wall time and the most memory that it and its children held, beside the promised bounds.

python benchmarks/build.py [MODEL] [--target arm64-android] [--json]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path; the project's root must.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.command import measure_and_show, new_parser
from compile.running.load import read_manifest

BOUND_SECONDS = 90
BOUND_GIB = 4


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as folder:
        command = [sys.executable, "-m", "compile", args.model, "--target", args.target, "--out", f"{folder}/artifact"]
        start = time.perf_counter()
        done = subprocess.run([*command, "--json"], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.returncode)  # the build has said why
        manifest = read_manifest(Path(folder, "artifact"))
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
    }


def show(result: dict[str, Any]) -> None:
    print(f"python -m compile {result['model']} --target {result['target']}, on {result['cores']} cores")
    print(f"wall time    {result['seconds']:6.1f} s    (bound {BOUND_SECONDS} s)")
    print(f"peak memory  {result['peak_gib']:6.2f} GiB  (bound {BOUND_GIB} GiB)")
    print(f"library size {result['library_over_weights']:6.4f} × the weights")
    for phase, taken in result["phases"].items():
        print(f"  {phase:<24} {taken:6.1f} s")


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("model", nargs="?", default="mobilebert", help="what `python -m compile` takes")
    parser.add_argument("--target", default="arm64-android", help="default: arm64-android")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
