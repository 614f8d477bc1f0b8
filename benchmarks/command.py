"""The benchmarks' command lines: what cannot be measured is refused in one line, with exit status 2."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pocketbert.command import Parser, exit_status

INTERRUPTED = "no figures"


def new_parser(description: str | None) -> Parser:
    result = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return result


def measure_and_show(
    parser: Parser, measure: Callable[[argparse.Namespace], dict[str, Any]], show: Callable[[dict[str, Any]], None]
) -> int:
    """A whole program: the figures as `show` prints them, or as JSON with --json. Returns the exit status."""
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")

    def measure_once(args: argparse.Namespace) -> None:
        result = measure(args)
        print(json.dumps(result, indent=2)) if args.json else show(result)

    return exit_status(measure_once, parser.parse_args(), INTERRUPTED)


def number(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    """An argument's type: whole numbers (int) or any (float) from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {what} from {least} to {most}")
        return value

    return parse


RUNS = number(int, 1, 100_000)
THREADS = number(int, 1, 64)
LAYERS = number(int, 1, 100)


def new_file(text: str) -> Path:
    """An argument's type: a file that can be written when all is measured."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text}: name a file in a folder that exists")
    return path
