"""int8 where norms make channels as unlike as they can be: whole MobileBERT models with random weights.

Layers below --min-snr stay float32, so that those in int8 are at least that; outputs are compared with the model's in
float32, rows rounded as the kernels round them.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import LAYERS, measure_and_show, new_parser

if TYPE_CHECKING:
    import argparse

    from model import Model

CASES = {
    "random norms": "γ from 0.5 to 1.5, β normal",
    "gamma": "every γ log-uniform over a factor of 400",
    "channel": "one channel of the first norm 100 × the rest",
}


SHOWN = 5  # layers in float32 of a case


def spoil_norms(module: Model, case: str, level: bool = True) -> None:
    """Make the NoNorms of a module, randomised already, those of `case`.

    gamma: from 0.05 to 20, with signs; level: divided by its root mean square. Twenty-four layers that are not overflow
    in float32.
    """
    import torch

    draw = torch.Generator().manual_seed(1)
    norms = [norm for norm in module.modules() if type(norm).__name__ == "NoNorm"]
    with torch.no_grad():
        for norm in norms if case == "gamma" else norms[: case == "channel"]:
            size = norm.weight.shape
            gamma = 0.05 * 400 ** torch.rand(size, generator=draw) * (2 * torch.randint(0, 2, size, generator=draw) - 1)
            gamma = gamma / gamma.square().mean().sqrt() if level else gamma
            norm.weight.copy_(gamma if case == "gamma" else torch.where(torch.arange(size[0]) == 3, 100.0, 1.0))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import model as core
    import passes

    config = replace(core.PRESETS["mobilebert"], num_hidden_layers=args.layers, vocab_size=1000)
    rows = []
    for case in CASES:
        module = core.create(config, "none", 0)
        core.randomize_norms(module, 0)
        spoil_norms(module, case)
        with tempfile.TemporaryDirectory(prefix="pocketbert-") as work:
            file = core.export(module, Path(work) / "model.onnx", seq_len=args.tokens, batch=1)
            options = passes.Options(quantize="int8", attention="matmuls", min_snr=args.min_snr)
            _, report = passes.run(file, options=options)
        layers = [layer for entry in report.passes for layer in entry.layers]
        kept = [(layer.weight, layer.reason, layer.output_snr) for layer in layers if layer.precision == "float32"]
        least = report.noisiest()[0].output_snr
        rows.append(
            {"case": case, "layers": len(layers), "least_db": least, "outputs_db": report.int8_snr, "kept": kept}
        )
    return {"layers": args.layers, "tokens": args.tokens, "min_snr": args.min_snr, "rows": rows}


def show(result: dict[str, Any]) -> None:
    print(f"MobileBERT, random weights, {result['layers']} layers, {result['tokens']} tokens\n")
    print(f"{'norms':46}{'in int8':>12}{'least layer':>13}{'outputs':>10}")
    for row in result["rows"]:
        small = f"{row['layers'] - len(row['kept'])} of {row['layers']}"
        print(f"{CASES[row['case']]:46}{small:>12}{row['least_db']:10.1f} dB{row['outputs_db']:7.1f} dB")
        for layer, reason, ratio in row["kept"][:SHOWN]:
            print(f"    float32: {layer}: {reason}" + ("" if ratio is None else f" ({ratio:.1f} dB)"))
        if more := row["kept"][SHOWN:]:
            print(f"    and {len(more)} more: --json has all")


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--layers", type=LAYERS, default=24, metavar="N", help="default: 24, all")
    parser.add_argument("--tokens", type=LAYERS, default=64, metavar="N", help="in a sequence (default: 64)")
    parser.add_argument("--min-snr", type=float, default=25.0, metavar="DB", help="default: 25")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
