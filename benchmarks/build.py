"""What one build costs: wall time and the most memory that it and its children held, beside the promised bounds.

python benchmarks/build.py [MODEL] [--target arm64-android] [--json]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOUND_SECONDS = 90
BOUND_GIB = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mobilebert")
    parser.add_argument("--target", default="arm64-android")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as folder:
        command = [sys.executable, "-m", "compile", args.model, "--target", args.target, "--out", f"{folder}/artifact"]
        start = time.perf_counter()
        subprocess.run([*command, "--json"], cwd=root, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        manifest = json.loads(Path(folder, "artifact", "manifest.json").read_text())
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    result = {
        "model": args.model,
        "target": args.target,
        "seconds": seconds,
        "bound_seconds": BOUND_SECONDS,
        "peak_gib": gib,
        "bound_gib": BOUND_GIB,
        "cores": os.cpu_count(),
        "library_over_weights": manifest["sizes"]["library_bytes"] / manifest["sizes"]["weights_bytes"],
        "phases": manifest["build_seconds"],
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print(f"python -m compile {args.model} --target {args.target}, on {result['cores']} cores")
    print(f"wall time    {seconds:6.1f} s    (bound {BOUND_SECONDS} s)")
    print(f"peak memory  {gib:6.2f} GiB  (bound {BOUND_GIB} GiB)")
    print(f"library size {result['library_over_weights']:6.4f} × the weights")
    for phase, taken in result["phases"].items():
        print(f"  {phase:<24} {taken:6.1f} s")


if __name__ == "__main__":
    main()
