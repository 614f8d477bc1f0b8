"""One peer in a process of its own, under any interpreter that has its packages.

    python -m benchmarks.peers convert PEER SOURCE            prints {"file": ..., "versions": {...}}
    python -m benchmarks.peers serve PEER FILE SAMPLE THREADS  then a line in is a run, a line out its ms
    python -m benchmarks.peers answer PEER FILE SAMPLES       prints the .npy of the largest output for each of many

PEER is a module beside this one, with PACKAGES (what pip installs for it), `convert(source) -> file` and
`prepare(file, sample, threads) -> infer`, where infer() gives the outputs. Exit status 3: a package is missing. SAMPLE
is an .npz of the inputs; the first line out is the file that holds the outputs of one run.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

ABSENT = 3

# Converters and runtimes print as they like: file descriptor 1 becomes stderr, and the answers keep the real one.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

command, name, file, *rest = sys.argv[1:]
peer = importlib.import_module(f"benchmarks.peers.{name}")
try:
    versions = {package: importlib.metadata.version(package) for package in peer.PACKAGES}
except importlib.metadata.PackageNotFoundError:
    sys.exit(ABSENT)
if command == "convert":
    print(json.dumps({"file": str(peer.convert(Path(file))), "versions": versions}), file=answers)
elif command == "answer":
    import numpy as np

    samples = dict(np.load(rest[0]))
    current = {part: values[0].copy() for part, values in samples.items()}
    run, results = peer.prepare(Path(file), current, 1), []
    for index in range(len(next(iter(samples.values())))):
        for part, values in samples.items():
            current[part][...] = values[index]
        results.append(max(run(), key=np.size).copy())
    np.save(f"{file}.answers.npy", np.stack(results))
    print(f"{file}.answers.npy", file=answers)
else:
    import numpy as np

    sample, threads = dict(np.load(rest[0])), int(rest[1])
    infer = peer.prepare(Path(file), sample, threads)
    outputs = Path(f"{file}.{threads}.outputs.npz")
    np.savez(outputs, *infer())
    print(outputs, file=answers)
    for _ in sys.stdin:
        start = time.perf_counter()
        infer()
        print((time.perf_counter() - start) * 1e3, file=answers)
