"""Where the time of an inference goes, by layer and by kernel, measured on a library that this machine can run.

ARTIFACT is the folder that a build left. The library needs no rebuilding: a profiled run takes a second set of stage
functions that read the clock after each kernel; a run without a profile never meets them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from compile.errors import CompileError
from pocketbert.command import Parser, exit_status
from pocketbert.files import write_whole, written_whole

EXAMPLES = """examples:
  %(prog)s build/mobilebert-host
  %(prog)s build/mobilebert-host --threads 2 --png bars.png --trace trace.json
  %(prog)s build/mobilebert-host --tokens 32 --runs 100 --json figures.json

--trace is a file for https://ui.perfetto.dev or chrome://tracing: a line for each thread, one run.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    result = Parser(prog=prog, description=__doc__, epilog=EXAMPLES)
    add = result.add_argument
    add("artifact", type=Path, metavar="ARTIFACT", help="an artifact folder, built for this machine")
    add("--runs", type=int, default=20, metavar="N", help="runs that count, after three that warm up (default: 20)")
    add("--threads", type=int, default=1, metavar="N", help="threads, 1 to 64 (default: 1)")
    add("--tokens", type=int, metavar="N", help="tokens in the sequence (default: the model's)")
    add("--png", type=Path, metavar="FILE", help="draw a bar chart (takes matplotlib)")
    add("--trace", type=Path, metavar="FILE", help="write a trace for Perfetto or chrome://tracing")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--debug", action="store_true", help="show the traceback of an error")
    return result


def main(arguments: Sequence[str] | None = None, prog: str = "python -m compile.profile") -> int:
    """Parse, measure, print. Returns the exit status: 0, or 2 after one line on the error stream."""
    return exit_status(profile_artifact, parser(prog).parse_args(arguments), "nothing was written")


def profile_artifact(args: argparse.Namespace) -> None:
    for name, value, most in (("--runs", args.runs, 100_000), ("--threads", args.threads, 64)):
        if not 1 <= value <= most:
            raise CompileError(f"{name} {value}: choose 1 to {most}")
    for path in filter(None, (args.png, args.trace, args.json)):
        if not path.absolute().parent.is_dir() or path.is_dir():
            raise CompileError(f"cannot write {path}: name a file in a folder that exists")
    if args.png and importlib.util.find_spec("matplotlib") is None:
        raise CompileError("--png needs matplotlib: pip install 'pocketbert[profile]'")
    from rich.console import Console
    from rich.progress import Progress

    from compile.running.profile import measure, show

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("profiling", total=measure.WARM_UP + args.runs)
        result = measure.profile(
            args.artifact, args.threads, args.tokens, args.runs, lambda done: bar.update(task, completed=done + 1)
        )
    show.print_tables(result)
    if args.json:
        write_whole(args.json, json.dumps(show.to_dict(result), indent=2) + "\n", CompileError)
    if args.trace:
        write_whole(args.trace, json.dumps(show.to_trace(result)) + "\n", CompileError)
    if args.png:
        with written_whole(args.png, CompileError) as file:
            show.draw(result, file)


if __name__ == "__main__":
    sys.exit(main())
