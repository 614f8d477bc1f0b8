"""Choose the fastest tile for every kernel of a model.

MODEL is what `python -m compile` takes: a preset, a Hugging Face checkpoint folder, or an .onnx file.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="mobilebert", metavar="MODEL")


def run(args: argparse.Namespace) -> int:
    raise NotImplementedError
