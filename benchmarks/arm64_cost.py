"""What one inference costs on arm64: executed instructions, exactly, and estimated cycles of the inner loops.

    python benchmarks/arm64_cost.py [--model mobilebert] [--precision int8] [--json FILE]

Instructions are counted under qemu-aarch64 by a plugin: the same number on every machine and in every run, so a change
of kernels shows to the last instruction; they are counted on a core for each level of the library. Cycles of inner
loops are llvm-mca's ESTIMATE for the named cores, from schedule models and with every load a hit. Neither is a time.
Needs Debian's qemu-user; llvm for the estimate.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import compile
import model as core
from benchmarks.command import INTERRUPTED, new_file, new_parser
from benchmarks.presets import export
from compile.artifact.manifest import Kernel
from compile.cpus import CPUS
from pocketbert.command import exit_status
from tune.runners.cycles import estimated_cycles
from tune.runners.emulated import EmulatedRunner

# Multiply-adds an instruction, in float32 and by what multiplies int8 numbers (`cpus.Isa.dot`).
LANES = 4
PRODUCTS = {"mull": 8, "sdot": 16, "smmla": 32}
MULTIPLY_ADDS = {"float32": ("fmla",), "int8": ("smull", "smlal", "sdot", "smmla")}
CORES = ("cortex-a76", "neoverse-n1")


def inner_loops(assembly: str, precision: str, most: int = 3) -> list[list[str]]:
    """The loops with the most multiply-adds, one of each length: from a label to the branch back to it."""
    blocks: dict[str, list[str]] = {}
    label, bodies = "", []
    for line in assembly.splitlines():
        text = line.split("//")[0].strip()
        if re.match(r"\.LBB\w+:", text):
            label = text.split(":")[0]
            blocks[label] = []
        elif label and text and not text.startswith("."):
            blocks[label].append(text)
            if re.match(r"b\.\w+", text) and text.split()[-1] == label:
                bodies.append(blocks[label])
                label = ""
    weight = {len(block): block for block in bodies if _multiply_adds(block, precision)}
    return [weight[size] for size in sorted(weight, key=lambda s: -_multiply_adds(weight[s], precision))[:most]]


def _multiply_adds(block: list[str], precision: str) -> int:
    return sum(line.startswith(MULTIPLY_ADDS[precision]) for line in block)


def least_instructions(kernels: Sequence[Kernel], dot: str) -> float:
    """The multiply-adds alone: what no kernels can go below."""
    return sum(k.flops / 2 / (PRODUCTS[dot] if k.precision == "int8" else LANES) for k in kernels)


def measure(preset: str, precision: str, folder: Path) -> list[dict]:
    """One result a level."""
    exported = export(preset, None, folder)
    out, dump = folder / "out", folder / "dump"
    built = compile.build(exported, target="arm64-android", precision=precision, out=out, dump=dump)
    levels = built.manifest.levels
    loops = {name: loops_of(dump / "kernels", name, precision) for name in {level.kernels_for for level in levels}}
    results = []
    for level in levels:
        with EmulatedRunner(CPUS[level.cpu].qemu_cpu) as runner:
            counted = round(runner.measure(built.folder, timeout=600).median_ms * 1e6)
        least = least_instructions(built.manifest.kernels, CPUS[level.kernels_for].isa.dot)
        row = {"model": preset, "precision": precision, **asdict(level)}
        row |= {"instructions": counted, "multiply_adds": least}
        results.append({**row, "inner_loops": loops[level.kernels_for]})
        show(results[-1])
    return results


def loops_of(folder: Path, cpu: str, precision: str) -> list[dict]:
    """The inner loops of the kernels for `cpu`, of the assembly in `folder`."""
    assembly = "\n".join(path.read_text() for path in sorted(folder.glob(f"*__{re.sub(r'[^a-z0-9]', '_', cpu)}.s")))
    loops = []
    for block in inner_loops(assembly, precision):
        fused = _multiply_adds(block, precision)
        installed = shutil.which("llvm-mca") is not None
        cycles = {core: estimated_cycles([block], "aarch64", core)[0] for core in CORES if installed}
        loops.append({"instructions": len(block), "multiply_adds": fused, "estimated_cycles": cycles})
    return loops


def show(result: dict) -> None:
    counted, least = result["instructions"], result["multiply_adds"]
    print(
        f"{result['model']}, {result['precision']}, on {result['cpu']} (kernels for {result['kernels_for']}): "
        f"{counted / 1e6:.1f} M instructions an inference, "
        f"{counted / least:.3f} × its {least / 1e6:.1f} M multiply-adds"
    )
    for loop in result["inner_loops"]:
        line = f"  inner loop: {loop['instructions']} instructions, {loop['multiply_adds']} of them multiply-adds"
        if not loop["estimated_cycles"]:
            line += "; no estimate of cycles: llvm-mca is not installed (Debian package llvm)"
        for name, cycles in loop["estimated_cycles"].items():
            line += f"; ESTIMATED {cycles:.0f} cycles on {name} ({loop['multiply_adds'] / cycles:.2f} a cycle)"
        print(line)


def count_and_show(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
        results = measure(args.model, args.precision, Path(name))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--model", choices=core.PRESETS, default="mobilebert", metavar="PRESET")
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures there as well")
    return exit_status(count_and_show, parser.parse_args(), INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
