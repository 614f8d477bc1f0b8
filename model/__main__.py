"""MobileBERT-family encoders: count, train, distil, fine-tune and score them, and write them as ONNX."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pocketbert.command import Parser, exit_status

from .commands import table
from .config import HEADS, ModelConfig
from .errors import ModelError
from .presets import ALIASES, PAPER, PRESETS, find_preset

EPILOG = "\n\n".join(
    textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False)
    for text in (
        f"presets: {', '.join(PRESETS)}",
        f"aliases: {', '.join(f'{alias} ({name})' for alias, name in ALIASES.items())}",
    )
)


def length(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor 'dynamic'")
    return int(text)


def parser(prog: str) -> argparse.ArgumentParser:
    main = Parser(prog=prog, description=__doc__, epilog=EPILOG)
    commands = main.add_subparsers(dest="command", required=True)

    inspect = commands.add_parser(
        "inspect",
        help="the layers of an architecture with #Params and #FLOPs",
        description="Print the layer table, #Params and #FLOPs (2 x multiply-adds) of a preset or checkpoint folder,"
        "\nor with --all every figure of the papers' tables beside ours.",
        epilog=EPILOG,
    )
    inspect.add_argument("model", nargs="?", metavar="PRESET|FOLDER")
    inspect.add_argument("--all", action="store_true", help="compare with the papers' tables")
    inspect.add_argument("--seq-len", type=int, default=128, metavar="N", help="tokens for #FLOPs (default: 128)")
    inspect.add_argument("--json", action="store_true", help="print JSON")

    export = commands.add_parser(
        "export",
        help="write a model as ONNX",
        description="Write a preset (random weights) or a checkpoint folder as ONNX, with ai.onnx operators only."
        "\nInputs are input_ids, attention_mask and token_type_ids (not for DistilBERT), int64 (batch, sequence).",
        epilog=EPILOG,
    )
    export.add_argument("model", metavar="PRESET|FOLDER")
    export.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="the .onnx file to write")
    export.add_argument("--seq-len", type=length, default=128, metavar="N|dynamic", help="tokens (default: 128)")
    export.add_argument("--batch", type=length, default=1, metavar="N|dynamic", help="sequences (default: 1)")
    export.add_argument("--head", choices=HEADS, help="default: the checkpoint's own; none for a preset")
    export.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights (default: 0)")
    export.add_argument(
        "--randomize-norms", action="store_true", help="draw norms and biases at random too, instead of 1 and 0"
    )
    for command in (inspect, export, *table.add_commands(commands)):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return main


def inspect_model(args: argparse.Namespace) -> None:
    if args.all == bool(args.model):
        raise ModelError("give either a preset or folder, or --all")
    config = None if args.all else find_config(args.model)
    from .counting import compare, count, paper_flops, paper_params  # torch is slow to import, so only now

    if config is None:
        comparisons = compare()
        if args.json:
            print(json.dumps([asdict(c) for c in comparisons], indent=2, ensure_ascii=False))
            return
        print(f"{'preset':27}{'table':11}{'figure':12}{'paper':>8}{'ours':>9}{'difference':>12}")
        for c in comparisons:
            mark = (
                f"  [{list(dict.fromkeys(x.note for x in comparisons if x.note)).index(c.note) + 1}]" if c.note else ""
            )
            print(f"{c.preset:27}{c.table:11}{c.figure:12}{c.paper:8g}{c.ours:9.2f}{c.difference:+10.1f} %{mark}")
        print("\nparams in millions, without pooler and heads; flops in billions, at 128 tokens, squad_flops at 384")
        for i, note in enumerate(dict.fromkeys(c.note for c in comparisons if c.note), 1):
            print(f"[{i}] {note}")
        return

    if not 1 <= args.seq_len <= config.max_position_embeddings:
        raise ModelError(
            f"--seq-len {args.seq_len} is outside the position table: 1 to {config.max_position_embeddings}"
        )
    rows = count(config, args.seq_len)
    params, flops = sum(r.params for r in rows), sum(r.flops for r in rows)
    as_printed = {"params": paper_params(rows), "flops": paper_flops(rows, config, args.seq_len)}
    if args.json:
        totals = {"params": params, "flops": flops, "seq_len": args.seq_len, "as_the_papers_count": as_printed}
        print(json.dumps({"config": asdict(config), "rows": [asdict(r) for r in rows]} | totals, indent=2))
        return
    print(f"{'part':36}{'shape':>16}{'×':>5}{'#Params':>14}{'#FLOPs':>16}")
    for r in rows:
        print(f"{r.part:36}{r.shape:>16}{r.times:5}{r.params:14,}{r.flops:16,}")
    print(f"{'encoder':57}{params:14,}{flops:16,}")
    print(f"{'as the papers count':57}{as_printed['params']:14,}{as_printed['flops']:16,}")
    name = ALIASES.get(args.model, args.model)
    if name in PAPER:
        printed = PAPER[name]
        at_length = {128: (printed.flops, printed.table), 384: (printed.squad_flops, "ICLR 4")}
        printed_flops, table = at_length.get(args.seq_len, (None, ""))
        figures = [f"{value:g}{unit}" for value, unit in ((printed.params, "M"), (printed_flops, "B")) if value]
        if table and figures:
            print(f"the paper prints ({table}): {', '.join(figures)}")


def find_config(name: str) -> ModelConfig:
    if Path(name).is_dir():
        from .checkpoint import read_config

        return read_config(Path(name))[1]
    return find_preset(name)


def export_model(args: argparse.Namespace) -> None:
    if not Path(args.model).is_dir():
        find_preset(args.model)
    from . import export, load, randomize_norms  # torch is slow to import, so only now

    model = load(args.model, args.head, args.seed)
    if args.randomize_norms:
        randomize_norms(model, args.seed)
    path = export(model, args.output, seq_len=args.seq_len, batch=args.batch)
    size = sum(p.stat().st_size for p in (path, path.with_name(path.name + ".data")) if p.exists())
    print(f"{path}: {size / 1e6:.1f} MB, batch {args.batch}, sequence {args.seq_len}, outputs {model.output_names}")


def main(arguments: list[str] | None = None, prog: str = "python -m model") -> int:
    """Parse, do, print. Returns the exit status: 0, or 2 after one line on the error stream."""
    args = parser(prog).parse_args(arguments)
    action = {"inspect": inspect_model, "export": export_model}.get(args.command, table.run_command)
    return exit_status(action, args, table.INTERRUPTED.get(args.command, "nothing was written"))


if __name__ == "__main__":
    sys.exit(main())
