"""MobileBERT and its relatives, from PyTorch to a library that a phone app loads.

commands:
  compile   a preset, a checkpoint folder or an .onnx file becomes a library
  profile   where the time of an inference goes, on a library that this machine can run
  passes    rewrite an ONNX graph into the cheapest equivalent one
  model     count, train, distil, fine-tune and score; write ONNX
  tune      measure on the device, and choose by what was measured: tiles, architectures
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pocketbert
from pocketbert.command import ROOT, Parser

COMMANDS = {
    "compile": "compile.__main__",
    "profile": "compile.running.profile.__main__",
    "passes": "passes.__main__",
    "model": "model.__main__",
    "tune": "tune.__main__",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status."""
    # `python -m pocketbert` puts the working directory first on the path, where a user's own model.py may lie.
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path.cwd() or Path.cwd() == ROOT]
    parser = Parser(prog="pocketbert", description=__doc__, epilog="%(prog)s COMMAND --help says more")
    parser.add_argument("--version", action="version", version=f"pocketbert {pocketbert.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given[:1])
    status: int = import_module(COMMANDS[args.command]).main(given[1:], prog=f"pocketbert {args.command}")
    return status


if __name__ == "__main__":
    sys.exit(main())
