"""Write one architecture of a search space as ONNX, as the search did.

Parameters that are not given are those of the space's first row. The weights are seeded and random, so
`python -m compile` makes of the file the very library that was measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tune.errors import TuneError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--space", default="mobilebert", metavar="NAME", help="mobilebert, mobilebert-toy or ib-bert")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", dest="sets", help="parameters of the space")
    add("--seq-len", type=int, default=128, metavar="N", help="tokens in a sequence (default: 128)")
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the .onnx file to write")


def export_architecture(args: argparse.Namespace) -> int:
    from tune.search.artifact import export
    from tune.search.space import find_space

    space = find_space(args.space)
    parameters = dict(space.parameters(space.rows[space.reference]))
    for text in args.sets:
        name, _, value = text.partition("=")
        if name not in space.choices:
            raise TuneError(f"--set {text}: the space {space.name} has {', '.join(space.choices)}")
        fitting = [choice for choice in space.choices[name] if str(choice) == value]
        if not fitting:
            raise TuneError(f"--set {text}: choose from {', '.join(map(str, space.choices[name]))}")
        parameters[name] = fitting[0]
    print(export(space.config(parameters), args.output, args.seq_len))
    return 0
