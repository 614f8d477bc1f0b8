"""The training subcommands: their arguments, and the function each one calls."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ModelError
from .config import describe, read

CONFIGURED = {
    "pretrain": ("train a teacher or a bare student by masked words and next sentences", "PretrainConfig"),
    "distill": ("train a student from a teacher: auxiliary, joint or progressive transfer", "DistillConfig"),
    "finetune": ("train on a task of GLUE or on SQuAD, once or as a sweep, and evaluate", "FinetuneConfig"),
    "embed": ("train a model of sentence embeddings, from pairs or a teacher's vectors", "EmbedConfig"),
    "evaluate": ("metrics of a model on held-out text, a task of GLUE or SQuAD", "EvaluateConfig"),
    "attention-maps": ("draw the attention of teacher and students to PNG (Figure 3)", "AttentionMapsConfig"),
}
"""Name to help and the dataclass that the TOML file fills, in the recipe of that name."""
INTERRUPTED = dict.fromkeys(
    ("pretrain", "distill", "finetune", "embed"), "the same command goes on from the last checkpoint"
)
"""What is said after Ctrl-C."""


def add_commands(commands: Any) -> list[argparse.ArgumentParser]:
    """Add every subcommand to an argparse subparsers object."""
    added = []
    for name, (text, kind) in CONFIGURED.items():
        command = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".",
            epilog="settings and their defaults:\n" + "\n".join(describe(_dataclass(name, kind))).replace("%", "%%"),
        )  # fmt: skip
        command.add_argument("config", type=Path, metavar="CONFIG.toml", help="see configs/")
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="sets",
            help="change a setting, such as train.steps=100; may be repeated",
        )  # fmt: skip
        added.append(command)
    text = "official metrics of a predictions file, without a model"
    score = commands.add_parser("score", help=text, description=text[0].upper() + text[1:] + ".")
    score.add_argument("task", metavar="TASK", help="squad-v1.1, squad-v2.0, or a task of GLUE such as sst-2")
    score.add_argument("--data", type=Path, required=True, metavar="FILE", help="the task's own TSV or JSON")
    score.add_argument("--predictions", type=Path, required=True, metavar="FILE", help="in the official format")
    score.add_argument("--null-odds", type=Path, metavar="FILE", help="SQuAD v2.0: JSON of how sure of no answer")
    score.add_argument(
        "--null-threshold", type=float, default=1.0, metavar="X",
        help="with --null-odds: odds above it count as no answer (default: 1.0, as in the official script)",
    )  # fmt: skip
    score.add_argument("--json", action="store_true", help="print JSON")
    glue = commands.add_parser(
        "glue",
        help="the GLUE score of fine-tuned models, and the archive for its server",
        description="Each task's score on its development set, and with all eight the GLUE score, without WNLI as in "
        "the paper.",
    )
    glue.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="output folders of finetune")
    glue.add_argument("--submission", type=Path, metavar="FILE.zip", help="write what the GLUE server takes, with WNLI")
    glue.add_argument("--json", action="store_true", help="print JSON")
    return [*added, score, glue]


def run_command(args: argparse.Namespace) -> None:
    """Do what the parsed arguments ask for."""
    name = args.command.replace("-", "_")
    try:
        if args.command == "glue":
            print(import_module("..recipes.glue", __package__).glue(args.folders, args.submission, args.json))
            return
        if args.command not in CONFIGURED:
            getattr(import_module(f".{name}", __package__), name)(args)
            return
        function = getattr(_recipe(args.command), name)
        result = function(read(args.config, _dataclass(args.command, CONFIGURED[args.command][1]), args.sets))
        from ..processes import is_first

        if is_first():
            print(result)
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: pip install 'pocketbert[train]'") from error


def _dataclass(command: str, kind: str) -> type:
    return getattr(_recipe(command), kind)


def _recipe(command: str) -> ModuleType:
    return import_module(f"..recipes.{command.replace('-', '_')}", __package__)
