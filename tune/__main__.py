"""Measure on the device, and choose by what was measured."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence

from pocketbert.command import Parser, exit_status
from tune.errors import TuneError

# Sub-command -> its module, which has `add_arguments(parser)` and a docstring for --help, and the function to call.
COMMANDS = {
    "kernels": ("tune.kernels.command", "tune_kernels"),
    "search": ("tune.search.command", "search_architectures"),
    "report": ("tune.search.report_command", "write_report"),
    "import": ("tune.measured.command", "import_measurements"),
    "export": ("tune.search.export_command", "export_architecture"),
}


def parser(prog: str) -> argparse.ArgumentParser:
    result = Parser(prog=prog, description=__doc__)
    commands = result.add_subparsers(required=True, metavar="COMMAND")
    for name, (path, function) in COMMANDS.items():
        module = importlib.import_module(path)
        text = module.__doc__ or ""
        command = commands.add_parser(name, help=text.partition("\n")[0].rstrip("."), description=text)
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(function=getattr(module, function))
    return result


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tune") -> int:
    """Parse and run one sub-command. Returns the exit status: 2 after one line on the error stream."""
    started = time.monotonic()  # before the commands' modules are read, which takes a while on a busy machine
    kept = "what was measured is kept; the same command goes on from there"
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser(prog).parse_args(given, argparse.Namespace(given=given, started=started))
    return exit_status(run_command, args, kept)


def run_command(args: argparse.Namespace) -> int | None:
    try:
        return args.function(args)
    except ModuleNotFoundError as error:
        raise TuneError(f"{error.name} is not installed: pip install 'pocketbert[tune]'") from error


if __name__ == "__main__":
    sys.exit(main())
