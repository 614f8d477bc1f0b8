"""Compile a MobileBERT-family encoder into one library that an app can load.

MODEL is the name of a preset (random weights from --seed), a Hugging Face checkpoint folder, or an .onnx file. The
result is a folder: lib<name>.so, which needs libc and libm alone; <name>.h, its C interface; manifest.json and
report.html, which say what was built.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from compile.artifact.manifest import Manifest
from compile.artifact.packages import PACKAGES
from compile.cpus import CPUS
from compile.databases import TuningSummary
from compile.targets import ANDROID, GROUPS, TARGETS, find_targets
from passes.report import LayerPrecision
from pocketbert.command import Parser, exit_status, require_own_rooms, say

HEADS = ("none", "mlm", "sequence-classification", "token-classification", "question-answering")

EXAMPLES = """examples:
  %(prog)s --target arm64-android                     MobileBERT for every 64-bit Android phone
  %(prog)s mobilebert-tiny --target host --verify     for this machine, compared with ONNX Runtime
  %(prog)s ./my-checkpoint --target arm64-android --head question-answering --seq-len 384
  %(prog)s mobilebert --vocab ./vocab.txt             text in; a checkpoint's folder brings its own tokenizer
  %(prog)s model.onnx --target arm64-linux --out build/mine
  %(prog)s --precision int8                           int8 linears and tables: a quarter of the size
  %(prog)s --seq-len 32,64,128                        one library for all lengths, one copy of the weights
"""


def lengths(text: str) -> list[int]:
    """32,64,128 as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens, nor several with commas") from None


def parser(prog: str) -> argparse.ArgumentParser:
    result = Parser(prog=prog, description=__doc__, epilog=EXAMPLES)
    add = result.add_argument
    add("model", nargs="?", default="mobilebert", metavar="MODEL", help="preset, folder or .onnx (default: mobilebert)")
    add(
        "--target",
        default="arm64-android",
        help=f"{', '.join(TARGETS)}, android (all) or host (default: arm64-android)",
    )
    add("--cpu", metavar="NAME", help="CPU to compile for; code for a newer one does not run on older ones")
    add(
        "--seq-len",
        type=lengths,
        metavar="N[,N]",
        help="tokens in a sequence; the library runs any number up to the longest at its own cost (default: those of "
        "an .onnx file, or 128)",
    )
    add("--batch", type=int, metavar="N", help="sequences that a run may have side by side (default: the file's, or 1)")
    add("--threads", type=int, default=0, metavar="N", help="the library's default (0: one a core, up to four)")
    add("--out", type=Path, metavar="DIR", help="artifact folder (default: build/<name>-<target>)")
    add("--head", choices=HEADS, help="what the model ends in (default: a checkpoint's own, else none)")
    add("--random-head", action="store_true", help="let a head be random where the checkpoint lacks its weights")
    add("--seed", type=int, default=0, metavar="N", help="of a preset's random weights (default: 0)")
    add(
        "--vocab",
        type=Path,
        metavar="FILE",
        help="vocab.txt of a preset or .onnx file: the library then takes text, too",
    )
    add("--cased", action="store_true", help="the vocabulary tells upper from lower case (BERT cased)")
    add("--task", metavar="TASK", help="what a preset or .onnx file is for: classify, entities, fill or embed")
    add("--labels", type=lambda text: text.split(","), metavar="A,B", help="names of its logits, in their order")
    add("--no-text", action="store_true", help="leave out the tokenizer that a folder has")
    add("--precision", choices=("float32", "int8"), default="float32", help="of linears and tables (default: float32)")
    add("--keep-float", nargs="+", default=[], metavar="PATTERN", help="layers that stay float32: '*classifier*'")
    add("--min-snr", type=float, metavar="DB", help="layers noisier than that in int8 stay float32 (default: 25)")
    add("--calibrate", type=Path, metavar="FILE", help="texts, one a line, to sample layers on; takes --vocab")
    add("--package", choices=tuple(PACKAGES),
        help="also a package: aar, a Maven folder for Android, or jar (both take a JDK); wheel, for pip; go, a module; "
        "crate, for Cargo; nuget, for .NET (takes mono-mcs); npm, for wasm32; benchmark, to measure with")  # fmt: skip
    add("--name", metavar="NAME", help="of the library and its package (default: the model's)")
    add("--group", metavar="GROUP", help="of the package in Maven (default: com.pocketbert)")
    add("--version", metavar="N.N.N", help="of the package in Maven, pip and npm (default: PocketBERT's own)")
    add("--verify", action="store_true", help="run the library here (arm64 under qemu) and compare with its model")
    add("--fix-shape", nargs="+", default=[], metavar="NAME=DIM,…",
        help="shapes of inputs whose open dimensions are neither batch nor tokens: boxes=1,128,4")  # fmt: skip
    add("--skip", nargs="+", default=[], metavar="PASS", help="graph passes to leave out (python -m passes --list)")
    add("--no-verify", action="store_true", help="do not compare the model after each graph pass (faster, unsafe)")
    add("--sanitize", default="", metavar="KINDS", help="clang's sanitizers, as in address,undefined (--target host)")
    add("--db", metavar="FILE", help="tuning database (default: the one shipped for the CPU; none: no database)")
    add("--dump", type=Path, metavar="DIR", help="keep the graph, Relax, TensorIR, assembly and plan of each phase")
    add("--sign", type=Path, metavar="KEY", help="sign the artifact with the key in this file (takes cryptography)")
    add("--new-key", type=Path, metavar="KEY", help="make a key: KEY, to keep secret, and KEY.pub; and exit")
    add("--json", action="store_true", help="print the manifest instead of the table")
    add("--list-targets", action="store_true", help="list targets and their CPUs, and exit")
    add("--list-models", action="store_true", help="list presets with their size, and exit")
    add("--debug", action="store_true", help="show the traceback of an error")
    return result


def main(arguments: Sequence[str] | None = None, prog: str = "python -m compile") -> int:
    """Parse, build, print. Returns the exit status: 0, or 2 after one line on the error stream."""
    args = parser(prog).parse_args(arguments)
    actions = ((args.list_targets, list_targets), (args.list_models, list_models), (args.new_key, make_key))
    action = next((action for asked, action in actions if asked), compile_model)
    return exit_status(action, args, "nothing was left behind")


def compile_model(args: argparse.Namespace) -> None:
    find_targets(args.target, args.cpu)  # a wrong name should not wait for tvm to be imported
    from compile.build import build
    from passes.fix_shapes import read_shapes

    started = time.perf_counter()
    result = build(
        args.model,
        target=args.target,
        cpu=args.cpu,
        seq_len=args.seq_len,
        batch=args.batch,
        threads=args.threads,
        out=args.out,
        head=args.head,
        random_head=args.random_head,
        seed=args.seed,
        vocab=args.vocab,
        cased=args.cased,
        text=not args.no_text,
        task=args.task,
        labels=args.labels,
        package=args.package,
        name=args.name,
        group=args.group,
        version=args.version,
        verify=args.verify,
        sanitize=args.sanitize,
        db=args.db,
        dump=args.dump,
        precision=args.precision,
        keep_float=args.keep_float,
        min_snr=args.min_snr,
        calibrate=args.calibrate,
        sign=args.sign,
        fix_shape=read_shapes(args.fix_shape),
        skip=args.skip,
        verify_passes=not args.no_verify,
        progress=report_phase,
    )
    for line in result.manifest.tuning.damaged if result.manifest.tuning else ():
        say(f"warning: {line}")
    if args.json:
        print((result.folder / "manifest.json").read_text(), end="")
    else:
        print_summary(result.folder, result.manifest, time.perf_counter() - started)


def report_phase(name: str, seconds: float) -> None:
    say(f"{name:<24} {seconds:6.1f} s")


def print_summary(folder: Path, manifest: Manifest, seconds: float) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    sizes = manifest.sizes
    table = Table(show_header=False, title=f"{manifest.name} for {manifest.target}", title_justify="left")
    mib = 1 << 20
    kernels = manifest.kernels
    own = sum(k.calls for k in kernels if k.family != "generic")
    generic = sum(k.calls for k in kernels if k.family == "generic")
    passes = manifest.passes.passes if manifest.passes else ()
    rows = [
        ("artifact", str(folder)),
        ("library", f"{sizes.library_bytes / mib:.1f} MiB, of which weights {sizes.weights_bytes / mib:.1f} MiB"),
        ("CPU", f"{', '.join(level.cpu for level in manifest.levels)} ({manifest.isa}), {manifest.precision}"),
        (
            "computation",
            f"{manifest.flops / 1e9:.2f} GFLOP for {manifest.tokens} tokens"
            + (", less for any fewer" if manifest.shorter_sequences else "")
            + (f"; up to {manifest.batch} sequences a run" if manifest.batch > 1 else ""),
        ),
        ("kernel calls", f"{own} of {len(kernels)} kinds in {manifest.stages} stages; {generic} generic"),
        (
            "memory",
            f"{sizes.arena_bytes / mib:.2f} MiB arena and {sizes.scratch_bytes_per_row / 1024:.1f} KiB a row, "
            f"in place of {sizes.tensors_bytes_without_sharing / mib:.1f} MiB of tensors",
        ),
        ("tuned tiles", _tuning(manifest.tuning)),
        ("graph passes", f"{sum(p.applied for p in passes)} rewrites, {sum(len(p.refusals) for p in passes)} refused"),
    ]
    if passes and passes[0].name == "in_float32" and passes[0].counts:
        far = "" if passes[0].error is None else f"; {passes[0].error:.1e} of the output range from the file as it is"
        rows.append(("types", f"{', '.join(passes[0].counts)} computed in float32{far}"))
    if layers := [layer for entry in passes for layer in entry.layers]:
        rows += _quantisation(manifest, layers)
    for check in manifest.verification:
        on = f" on {check.texts} texts" if check.texts else ""
        to = f" to {check.referee}" + (
            "" if check.snr_db is None else f"; {check.snr_db:.1f} dB to the model as given{on}"
        )
        verdict = "passed" if check.passed else "FAILED"
        at = f", at {' and '.join(map(str, check.lengths))} tokens too" if check.lengths else ""
        rows.append(("verified", f"{verdict} on {check.where}: error {check.error:.1e} of the output range{to}{at}"))
    if package := manifest.package:
        place = f"; {package.coordinates} in {package.repository}/" if package.coordinates else ""
        rows.append(("package", package.file + place))
        missing = [TARGETS[name].abi for name in ANDROID if name not in {one.target for one in package.libraries}]
        if len(package.libraries) > 1:
            held = ", ".join(f"{one.abi} {one.bytes / mib:.1f} MiB" for one in package.libraries)
            rows.append(("ABIs", held + "".join(f"; not {abi}, which has no int8 kernels" for abi in missing)))
    rows.append(("time", f"{seconds:.1f} s"))
    for row in rows:
        table.add_row(*map(escape, row))
    Console(highlight=False).print(table)


def _quantisation(manifest: Manifest, layers: Sequence[LayerPrecision]) -> list[tuple[str, str]]:
    """How many layers are int8, what that costs, and a line for each reason that kept some in float32."""
    count = sum(layer.precision == "int8" for layer in layers)
    ratio = manifest.passes and manifest.passes.int8_snr
    words = f"{count} of {len(layers)}"
    if manifest.passes and (worst := manifest.passes.noisiest()):
        words += f"; least {worst[0].output_snr:.1f} dB, {worst[0].weight}"
    if manifest.passes and ratio:
        on = f"{manifest.passes.texts} texts" if manifest.passes.texts else "random inputs"
        words += f"; outputs {ratio:.1f} dB to float32 on {on}"
    rows = [("int8 layers", words)]
    for reason in dict.fromkeys(layer.reason for layer in manifest.kept_in_float):
        names = [layer.layer for layer in manifest.kept_in_float if layer.reason == reason]
        rows.append(("in float32", f"{', '.join(names[:3])}{', …' * (len(names) > 3)}: {reason}"))
    return rows


def _tuning(tuning: TuningSummary | None) -> str:
    if tuning is None:
        return "not recorded"
    if tuning.database is None:
        return f"no database: 0 of {tuning.tasks} tasks"
    source = f"{tuning.measured} measured, {tuning.estimated} estimated; {tuning.database}"
    damaged = f"; {len(tuning.damaged)} damaged lines skipped" if tuning.damaged else ""
    return f"{tuning.hits} of {tuning.tasks} tasks ({source}){damaged}"


def list_targets(_: argparse.Namespace) -> None:
    for target in TARGETS.values():
        cpus = [c.name for c in CPUS.values() if c.arch == target.arch]
        print(f"{target.name:<20} {target.description}\n{'':<20} --cpu {', '.join(cpus)} (default {target.cpu.name})")
    for name, (members, package) in GROUPS.items():
        print(f"{name:<20} all of {', '.join(members)} in one archive (--package {package})")
    print(f"{'host':<20} this machine, at its best instruction set")


def make_key(args: argparse.Namespace) -> None:
    from compile.artifact.signature import new_key

    print(new_key(args.new_key))


def list_models(_: argparse.Namespace) -> None:
    require_own_rooms("model")
    import model as core

    print(f"{'preset':<27}{'parameters':>12}{'FLOPs':>10}   (encoder, 128 tokens; FLOPs are 2 × multiply-adds)")
    for name, config in core.PRESETS.items():
        parts = core.count(config, 128)
        params, flops = sum(part.params for part in parts), sum(part.flops for part in parts)
        print(f"{name:<27}{params / 1e6:>10.1f} M{flops / 1e9:>8.2f} G")


if __name__ == "__main__":
    sys.exit(main())
