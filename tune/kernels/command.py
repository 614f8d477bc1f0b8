"""Choose the fastest tile for every kernel of a model.

MODEL is what `python -m compile` takes: a preset, a Hugging Face checkpoint folder, or an .onnx file. Every trial is
kept in the database at once: the same command goes on where it was stopped, however that was. Then

  python -m compile MODEL --target T --db FILE
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from compile.targets import TARGETS, find_target
from tune.errors import TuneError
from tune.runners.choose import add_runner_arguments, make_runner

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tune.kernels.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", nargs="?", default="mobilebert", metavar="MODEL", help="preset, folder or .onnx (default: mobilebert)")
    add("--target", default="host", help=f"{', '.join(TARGETS)} or host (default: host)")
    add("--cpu", metavar="NAME", help="CPU to tune for: the device's, whose name the database then carries")
    add("--seq-len", type=int, default=128, metavar="N", help="tokens in a sequence (default: 128)")
    add("--head", help="what the model ends in (default: a checkpoint's own, else none)")
    add("--precision", choices=("float32", "int8"), default="float32", help="of linears and tables (default: float32)")
    add("--trials", type=int, default=32, metavar="N", help="tiles to try for each kernel (default: 32)")
    add("--time-limit", type=float, default=float("inf"), metavar="S", help="seconds after which no trial is begun")
    add("--db", type=Path, metavar="FILE", help="database to go on with or begin (default: build/<cpu>.jsonl)")
    add_runner_arguments(parser)


def tune_kernels(args: argparse.Namespace) -> int:
    if args.trials < 1 or args.time_limit <= 0:
        raise TuneError("--trials and --time-limit must be positive")
    target = find_target(args.target, args.cpu)
    from rich.console import Console
    from rich.live import Live

    from tune.kernels.journal import Journal
    from tune.kernels.model import program_of
    from tune.kernels.session import Session
    from tune.kernels.tasks import tasks_of
    from tune.kernels.trials import Workbench

    console = Console(highlight=False, markup=False)
    path = args.db or Path("build") / f"{target.cpu.name}.jsonl"
    with make_runner(args, target) as runner:
        journal = Journal(path, target.cpu)
        for line in journal.damaged:
            console.print(line, style="yellow", soft_wrap=True)
        console.print(f"reading {args.model} …")
        tasks = tasks_of(program_of(args.model, target, args.seq_len, args.head, args.precision))
        if not tasks:
            raise TuneError(f"{args.model} has no kernel with a tile: nothing to tune")
        bench = Workbench(target, runner)
        try:
            session = Session(tasks, bench, journal, args.trials, args.time_limit)
            trials_before, peak = len(journal.trials), session.peak_gflops()
            live = Live(get_renderable=lambda: table(session, peak), console=console, refresh_per_second=2)
            with live:
                chosen = session.choose_tiles()
        finally:
            bench.close()
            journal.close()
    console.print(
        f"{path}: {len(chosen)} of {len(tasks)} tasks chosen; {session.measured} tiles tried, {trials_before} known "
        f"before, in {time.monotonic() - session.started:.0f} s"
        f"{'; ESTIMATES, nothing was timed' if runner.estimate else ''}",
        soft_wrap=True,
    )
    return 0


def table(session: Session, peak: float) -> RenderableType:
    """Tasks, their trials, the best so far; times that are estimates say so."""
    from rich.table import Table

    left = session.time_left
    estimate = session.bench.runner.estimate
    title = session.bench.target.cpu.name + (f", {max(left, 0):.0f} s left" if left < float("inf") else "")
    result = Table(title=title, title_justify="left")
    if peak:  # a kernel's best run may beat the yardstick
        peak = max([peak, *(p.gflops for p in session.progress if p.task.kernel.precision == "f32")])
    unit = f"{session.bench.runner.unit} (ESTIMATE)" if estimate else "GFLOP/s"
    for name in ("task", "calls", "trials", "failed", "best tile", unit, "of peak", "state"):
        result.add_column(name, justify="left" if name in ("task", "state") else "right")
    for p in session.progress:
        figure = "" if p.best is None or p.best.ms is None else f"{p.best.ms:.3f}" if estimate else f"{p.gflops:.1f}"
        share = f"{p.gflops / peak:.0%}" if peak and p.best and p.task.kernel.precision == "f32" else ""
        tile = f"{p.best.tile} ×{p.best.tile.k_unroll}" if p.best else ""
        trials = f"{p.trials}/{session.trials}"
        result.add_row(p.task.name, str(p.task.calls), trials, str(p.failed), tile, figure, share, p.state)
    return result
