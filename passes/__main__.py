"""Rewrite an exported ONNX graph into the cheapest equivalent standard-ONNX graph.

Every pass is checked: the model before and after it runs in ONNX Runtime on random valid inputs and must agree. A pass
that finds nothing to do, or refuses, says so in the table and in the report.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from passes import files, pipeline
from passes.calibration import plain_inputs, read_texts, read_tokenizer, text_inputs
from passes.errors import PassError
from passes.fix_shapes import fix_shapes, read_shapes
from passes.options import Options
from passes.report import LayerPrecision, PassReport, Report
from pocketbert.command import Parser, exit_status
from pocketbert.files import write_whole

EXAMPLES = """examples:
  %(prog)s model.onnx -o fast.onnx                        all passes, in order
  %(prog)s model.onnx -o fast.onnx --report report.json   what was done and refused, as JSON
  %(prog)s model.onnx -o fast.onnx --skip fold_nonorm     all but one
  %(prog)s model.onnx -o fast.onnx --dump stages/         keep the model after every pass
  %(prog)s model.onnx -o small.onnx --quantize int8       int8 weights, a quarter of the size
  %(prog)s --list                                         the passes, phase by phase
"""


def parser(prog: str) -> argparse.ArgumentParser:
    result = Parser(prog=prog, description=__doc__, epilog=EXAMPLES)
    add = result.add_argument
    add("model", nargs="?", help="the .onnx file to rewrite; it is not changed")
    add("-o", "--output", metavar="OUT", help="where to write the result")
    add("--only", nargs="+", metavar="PASS", help="run these passes alone, still in pipeline order")
    add("--skip", nargs="+", default=[], metavar="PASS", help="run all passes but these")
    add("--fix-shape", nargs="+", default=[], metavar="NAME=DIM,…",
        help="shapes for inputs with open dimensions, before the passes: input_ids=1,128")  # fmt: skip
    add("--report", metavar="FILE", help="write counts, refusals, sizes and errors as JSON")
    add("--dump", metavar="DIR", help="write the model after every pass into this folder")
    add("--no-verify", action="store_true", help="do not compare the outputs in ONNX Runtime (faster, unsafe)")
    cost = Options().vertical_cost
    add("--vertical-cost", type=float, default=cost, metavar="R",
        help=f"compose two linears when that costs at most R times their multiply-adds (default {cost})")  # fmt: skip
    add("--attention", choices=("operator", "matmuls"), default=Options().attention,
        help="attentions as ONNX's own operator (opset 23, faster; the default) or as matmuls")  # fmt: skip
    add("--quantize", choices=("none", "int8"), default="none",
        help="int8: weights of linears and embedding tables; all else stays float32 (default: none)")  # fmt: skip
    add("--keep-float", nargs="+", default=[], metavar="PATTERN",
        help="layers that stay float32, by node or weight: '*classifier*'")  # fmt: skip
    add("--calibrate", type=Path, metavar="FILE", help="texts to sample layers on, one a line, in place of our own")
    add("--vocab", type=Path, metavar="FILE", help="the model's vocab.txt, to sample layers on text")
    add("--cased", action="store_true", help="the vocabulary tells upper from lower case")
    snr = Options().min_snr
    add("--min-snr", type=float, default=snr, metavar="DB",
        help=f"layers with a smaller signal-to-noise ratio in int8 stay float32 (default {snr:g})")  # fmt: skip
    add("--list", action="store_true", help="list the passes and exit")
    add("--debug", action="store_true", help="show the traceback of an error")
    return result


def main(arguments: list[str] | None = None, prog: str = "python -m passes") -> int:
    """Parse, run, print; return the exit status: 0, or 2 after one line on the error stream."""
    args = parser(prog).parse_args(arguments)
    return exit_status(list_passes if args.list else rewrite, args, "nothing was written")


def rewrite(args: argparse.Namespace) -> None:
    """Run the passes on one file, write the result and say what was done."""
    if not args.model or not args.output:
        raise PassError("give a model and -o OUT, or --list; --help has examples")
    console, errors = Console(highlight=False), Console(highlight=False, stderr=True)

    def progress(done: PassReport) -> None:
        error = "" if done.error is None else f", error {done.error:.0e} of range"
        errors.print(f"{done.name}: {done.applied} rewrites, {done.nodes_after} nodes left{error}")

    source: onnx.ModelProto = fix_shapes(files.read(args.model), read_shapes(args.fix_shape))
    samples: tuple[Mapping[str, np.ndarray], ...] = ()
    if args.calibrate and not args.vocab:
        raise PassError("--calibrate: give the model's --vocab as well")
    if args.vocab:
        words = read_tokenizer(args.vocab, args.cased)
        texts = read_texts(args.calibrate) if args.calibrate else None
        samples = text_inputs(source, texts, words) if texts else plain_inputs(source, words)
    model, report = pipeline.run(
        source,
        only=args.only,
        skip=args.skip,
        verify=not args.no_verify,
        dump=args.dump,
        progress=progress,
        options=Options(
            vertical_cost=args.vertical_cost,
            attention=args.attention,
            quantize=args.quantize,
            keep_float=tuple(args.keep_float),
            min_snr=args.min_snr,
            calibration=samples,
        ),
    )
    files.write(model, args.output)
    if args.report:
        write_whole(args.report, report.to_json(), PassError)
    print_report(console, report)
    console.print(f"wrote {escape(str(args.output))}")


def list_passes(_: argparse.Namespace) -> None:
    """The phases and their passes, each with the first line of its module's docstring."""
    console = Console(highlight=False)
    for phase in pipeline.PHASES:
        console.print(f"[bold]{phase.name}")
        for entry in phase.passes:
            summary = (sys.modules[entry.run.__module__].__doc__ or "").splitlines()[0]
            console.print(f"  {entry.name:26} {escape(summary)}")


def print_report(console: Console, report: Report) -> None:
    """The closing table and the refusals."""
    table = Table("pass", "rewrites", "nodes", "ms", "error / range", "counts")
    for entry in report.passes:
        error = "not compared" if entry.error is None else f"{entry.error:.1e}"
        counts = ", ".join(f"{name} {count}" for name, count in entry.counts.items())
        nodes = f"{entry.nodes_before} → {entry.nodes_after}"
        table.add_row(entry.name, str(entry.applied), nodes, f"{1e3 * entry.seconds:.0f}", error, escape(counts))
    console.print(table)
    for entry in report.passes:
        for refusal in entry.refusals:
            console.print(f"{entry.name}: {refusal.times} × {escape(str(refusal))} (first: {escape(refusal.where)})")
    layers = [layer for entry in report.passes for layer in entry.layers]
    if layers:
        _print_layers(console, layers, report.int8_snr)
    before, after = report.before, report.after
    line = f"nodes {before.nodes} → {after.nodes}, parameters {before.parameters:,} → {after.parameters:,}"
    if before.flops and after.flops:
        line += f", GFLOPs {before.flops / 1e9:.3f} → {after.flops / 1e9:.3f}"
    if report.error is not None:
        line += f", error {report.error:.1e} of range"
    console.print(f"{line}, {report.seconds:.1f} s")


def _print_layers(console: Console, layers: Sequence[LayerPrecision], outputs: float | None) -> None:
    """How many layers are int8, the noisiest of them, and every one that stays float32 with its reason."""
    small = [layer for layer in layers if layer.precision == "int8"]
    line = f"int8: {len(small)} of {len(layers)} layers"
    if worst := min(small, key=lambda layer: layer.output_snr or 0.0, default=None):
        line += f"; least signal-to-noise ratio {worst.output_snr:.1f} dB ({worst.weight})"
    if outputs is not None:
        line += f"; outputs {outputs:.1f} dB"
    console.print(escape(line))
    for layer in layers:
        if layer.reason:
            ratio = "" if layer.output_snr is None else f" ({layer.output_snr:.1f} dB)"
            console.print(escape(f"float32: {layer.weight}: {layer.reason}{ratio}"))


if __name__ == "__main__":
    sys.exit(main())
