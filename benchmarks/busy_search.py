"""An architecture search on a machine that another program keeps busy: does a wrong latency enter the study?

Processes that only compute run on every core while `tune search` measures architectures, whose quality is a constant.
Then they are stopped, and every latency that the study accepted is measured again. What was measured is kept in --work:
the same command goes on. The second part can wait for a quiet moment: --only study, then --only again.

    python benchmarks/busy_search.py --time-limit 900
    python benchmarks/busy_search.py --load 0.5 --nice 10 --trials 10
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import RUNS, THREADS, measure_and_show, new_parser, number
from compile.running.runners.local import LocalRunner
from pocketbert.errors import PocketBERTError
from tune.search.latency import measure_beside

# Busy for a share of every 20 ms, until its parent is gone.
BURN = """
import os, sys, time
share, parent = 0.02 * float(sys.argv[1]), os.getppid()
while os.getppid() == parent:
    end = time.perf_counter() + share
    while time.perf_counter() < end:
        pass
    time.sleep(0.02 - share)
"""
WRONG = 0.1  # relative difference of the two measurements
RESULT = "accepted.json"


@contextmanager
def burners(count: int, load: float, nice: int) -> Iterator[list[psutil.Process]]:
    command = [sys.executable, "-c", BURN, str(load)]
    started = [psutil.Popen(command, preexec_fn=lambda: os.nice(nice)) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def options(args: argparse.Namespace) -> list[str]:
    """Of the study."""
    return [
        "search", "--study", "busy", "--storage", f"sqlite:///{(args.work / 'study.db').absolute()}",
        "--space", args.space, "--seq-len", str(args.seq_len), "--quality-command", "echo 1",
        "--trials", str(args.trials), "--time-limit", str(args.time_limit), "--seed", "0",
    ]  # fmt: skip


def run_study(args: argparse.Namespace) -> dict[str, float]:
    """With burners beside it: seconds, and who had the processors for how much of that time (1: all cores)."""
    before, started = psutil.cpu_times(), time.perf_counter()
    with burners(args.burners, args.load, args.nice) as others:
        command = [sys.executable, "-m", "pocketbert", "tune", *options(args)]
        status = subprocess.run(command, stdout=sys.stderr, cwd=sys.path[0], check=False).returncode
        burnt = sum(sum(process.cpu_times()[:2]) for process in others)
    if status not in (0, 2):  # 2: the machine was too busy to go on; what was measured until then counts
        raise PocketBERTError(f"the study ended with status {status}")
    after, seconds = psutil.cpu_times(), time.perf_counter() - started
    whole = seconds * (os.cpu_count() or 1)
    ours = os.times()
    return {"seconds": seconds, "burners": burnt / whole, "idle": (after.idle - before.idle) / whole,
            "study": (ours.children_user + ours.children_system - burnt) / whole}  # fmt: skip


def together(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """Of two parts of a study: seconds are added, shares weighted by them."""
    seconds = first["seconds"] + second["seconds"]
    shares = {k: (first[k] * first["seconds"] + second[k] * second["seconds"]) / seconds for k in first}
    return shares | {"seconds": seconds}


def build_accepted(args: argparse.Namespace) -> dict[str, Any]:
    """What the study found, and a library of every architecture that it measured."""
    from tune.__main__ import parser
    from tune.search.artifact import export, library, program
    from tune.search.command import begun
    from tune.search.findings import find

    given = argparse.Namespace(given=[], started=time.monotonic())
    with begun(parser("tune").parse_args(options(args), given)) as search:
        found, reference_ms = find(search.study), search.reference_ms
        configs = {str(p.number): p.config for p in found.points}
        configs["reference"] = search.space.rows[search.space.reference]
        for name, config in configs.items():
            if not (args.work / name).exists():
                made = program(export(config, search.folder / f"{name}.onnx", args.seq_len), search.build)
                library(made, search.build, "again", args.work / name)
    return {
        "device": found.device, "reference_ms": reference_ms, "unmeasured": found.unmeasured,
        "predictor": found.accuracy and asdict(found.accuracy), "pruned": found.pruned.total(), "failed": found.failed,
        "trials": [{"number": p.number, "ms": p.ms, "predicted_ms": p.predicted_ms, "suspect": p.suspect}
                   for p in found.points],
    }  # fmt: skip


def measure_again(work: Path, result: dict[str, Any]) -> None:
    """Puts beside every trial what it takes now, `again_ms`, in the study's own unit: × what its reference took."""
    with LocalRunner() as runner:
        for trial in result["trials"]:
            if "again_ms" in trial:
                continue
            taken = measure_beside(runner, work / str(trial["number"]), work / "reference", 1)
            trial["again_ms"] = taken.ratio * result["reference_ms"]
            trial["reference_ms"] = min(taken.reference_ms)
            (work / RESULT).write_text(json.dumps(result, indent=1))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    file = args.work / RESULT
    if args.only != "again":
        args.work.mkdir(parents=True, exist_ok=True)
        before, load = json.loads(file.read_text()) if file.is_file() else None, run_study(args)
        result = {"load": together(before["load"], load) if before else load, **build_accepted(args)}
        file.write_text(json.dumps(result, indent=1))
    elif file.is_file():
        result = json.loads(file.read_text())
    else:
        raise PocketBERTError(f"{file}: no such file; run it without --only again first")
    if args.only != "study":
        measure_again(args.work, result)
    return result


def show(result: dict[str, Any]) -> None:
    load, accepted = result["load"], [t for t in result["trials"] if not t["suspect"]]
    print(f"{result['device']}, {load['seconds']:.0f} s; of the processors' time burners had {load['burners']:.0%}, "
          f"the study {load['study']:.0%}, nobody {load['idle']:.0%}\n")  # fmt: skip
    print(f"accepted      {len(accepted)}")
    print(f"suspect       {len(result['trials']) - len(accepted)}")
    print(f"not measured  {len(result['unmeasured'])}")
    for trial, reason in result["unmeasured"]:
        print(f"  trial {trial}: {reason}")
    print(f"failed        {result['failed']}, interrupted ones with them")
    if result["predictor"]:
        print(f"predictor     MAPE {result['predictor']['mape']:.1f} %, τ {result['predictor']['tau']:.2f}")
    if again := [t for t in accepted if "again_ms" in t]:
        off = sorted(((abs(t["ms"] / t["again_ms"] - 1), t) for t in again), key=lambda pair: pair[0])
        wrong = sum(difference > WRONG for difference, _ in off)
        share, worst = off[-1]
        mean = sum(difference for difference, _ in off) / len(off)
        print(f"again, alone  {len(again)}: {wrong} more than {WRONG:.0%} off, mean {mean:.1%}, worst {share:.1%} "
              f"(trial {worst['number']}: {worst['ms']:.3f} ms, then {worst['again_ms']:.3f})")  # fmt: skip
        alone = min(t["reference_ms"] for t in again)
        print(f"reference     {result['reference_ms']:.2f} ms in the study, {alone:.2f} alone")


def main() -> int:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--work", type=Path, default=Path("runs/busy-search"), metavar="FOLDER")
    add("--space", choices=("mobilebert-toy", "mobilebert"), default="mobilebert-toy")
    add("--seq-len", type=number(int, 1, 512), default=128, metavar="N", help="tokens (default: 128)")
    add("--trials", type=RUNS, default=40, metavar="N", help="measured in all (default: 40)")
    add("--time-limit", type=number(float, 1, 1e6), default=900, metavar="S", help="of the study (default: 900)")
    add("--burners", type=THREADS, default=os.cpu_count(), metavar="N", help="processes (default: one a core)")
    add(
        "--load", type=number(float, 0, 1), default=1.0, metavar="X", help="share of its time each is busy (default: 1)"
    )
    add("--nice", type=number(int, 0, 19), default=0, metavar="N", help="added to theirs (default: 0)")
    add("--only", choices=("study", "again"), help="one of both parts: the study, or what it accepted measured again")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
