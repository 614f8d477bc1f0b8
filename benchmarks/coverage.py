"""Which encoders compile: families of transformers by the forms in which people have their files.

Each cell makes a small random model of a family (norms, biases and scales are random too), writes it in one form,
compiles that for this machine and compares the library with transformers: five masks at three lengths, at most 1e-4 of
the output's range. A cell is right, refused with the reason, or wrong. Cells run one after another, each in a process
of its own with a time limit.

    python benchmarks/coverage.py                          every family and form
    python benchmarks/coverage.py --family bert t5 --form static dynamic
    python benchmarks/coverage.py --docs docs/models.md    also write the table as a page
    python benchmarks/coverage.py --keep cells.json        go on where a run was stopped

float16 files may be 5e-3 off, int8 ones half as much again as ONNX Runtime is with the same file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import multiprocessing
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import measure_and_show, new_parser, number
from benchmarks.families import FAMILIES, TOKENS, Absent, Encoder
from benchmarks.forms import FORMS, HALF_TOLERANCE, LENGTHS, TOLERANCE, Written, error_in_onnxruntime, feeds, samples
from pocketbert.errors import PocketBERTError, first_line
from pocketbert.files import write_whole
from pocketbert.numerics import relative_error


@dataclass(frozen=True)
class Cell:
    """What became of one family in one form.

    outcome: "right", "refused", "wrong", "failed" (a traceback, a crash, the time limit) or "absent": transformers or
    the exporter cannot write this form, or ONNX Runtime does not get transformers' answer from what it wrote. note: the
    reason; error: the greatest, as a share of the output's range; generic: kernels that are TVM's own; elastic: whether
    shorter sequences run at their own length.
    """

    family: str
    form: str
    outcome: str
    note: str = ""
    error: float | None = None
    generic: int | None = None
    elastic: bool | None = None
    seconds: float = 0.0


def measure_cell(family: str, form: str, folder: Path) -> Cell:
    """Write, compile, compare."""
    from compile import build, load

    try:
        encoder = Encoder(family)
        written = FORMS[form](encoder, folder)
    except Absent as error:
        return Cell(family, form, "absent", str(error))
    try:
        built = build(written.source, target="host", seq_len=TOKENS, out=folder / "artifact", text=False)
    except PocketBERTError as error:
        note = str(error).replace(str(folder), ".")
        return unless_export_is_wrong(Cell(family, form, "refused", note), written, LENGTHS[:1])
    worst, elastic = 0.0, built.manifest.shorter_sequences
    lengths = LENGTHS if elastic else LENGTHS[:1]
    with load(built.folder) as library:
        names = [entry.name for entry in built.manifest.inputs]
        for ids, mask in samples(lengths):
            result = next(iter(library.run(feeds(names, ids, mask)).values()))
            worst = max(worst, relative_error({"y": result}, {"y": written.answer(ids, mask)}))
    generic = len(built.manifest.generic_kernels)
    if worst <= written.tolerance:
        return Cell(family, form, "right", "", worst, generic, elastic)
    note = f"error {worst:.1e}, at most {written.tolerance:.1e}"
    return unless_export_is_wrong(Cell(family, form, "wrong", note, worst, generic, elastic), written, lengths)


def unless_export_is_wrong(cell: Cell, written: Written, lengths: tuple[int, ...]) -> Cell:
    """The cell; "absent" where ONNX Runtime, too, gives another answer to the exported file than transformers."""
    if written.source.is_dir():
        return cell
    try:
        theirs = error_in_onnxruntime(written.source, written.answer, lengths)
    except Exception as error:
        return Cell(cell.family, cell.form, "absent", f"onnxruntime cannot run the exported file: {first_line(error)}")
    if theirs <= written.tolerance:
        return cell
    note = f"the exported file disagrees with transformers in ONNX Runtime itself: error {theirs:.1e}"
    return Cell(cell.family, cell.form, "absent", note)


# --- all cells

# Once, before the forks: they take longer than most cells.
IMPORTED = (
    "compile.pipeline", "passes.pipeline", "model.foreign", "transformers.models.bert.modeling_bert", "torch._dynamo",
    "networkx", "torch.onnx._internal.exporter._core", "onnxscript.function_libs.torch_lib.ops",
    "onnxruntime.quantization", "onnxruntime.transformers.optimizer",
)  # fmt: skip


def _in_child(family: str, form: str, sender: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), \
            contextlib.redirect_stderr(io.StringIO()):  # fmt: skip
        try:
            cell = measure_cell(family, form, Path(folder))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            note = f"{type(error).__name__}: {first_line(error)} ({Path(where.filename).name}:{where.lineno})"
            cell = Cell(family, form, "failed", note)
    sender.send(cell)


def run_cell(family: str, form: str, limit: float) -> Cell:
    """`measure_cell` in a process that is forked from this one, which has imported what takes long."""
    begin = time.perf_counter()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(family, form, sender))
    child.start()
    sender.close()
    try:
        cell = receiver.recv() if receiver.poll(limit) else Cell(family, form, "failed", f"more than {limit:g} s")
    except EOFError:
        child.join()
        cell = Cell(family, form, "failed", f"the process ended with status {child.exitcode}")
    child.kill()
    child.join()
    return Cell(**{**asdict(cell), "seconds": round(time.perf_counter() - begin, 1)})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise PocketBERTError("families are transformers': pip install torch transformers") from error
    warnings.simplefilter("ignore")
    for name in IMPORTED:
        import_module(name)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"transformers": transformers.__version__, "torch": torch.__version__, "cells": []}
    kept = {(cell["family"], cell["form"]): cell for cell in read_kept(args.keep)}
    for form in args.form:
        for family in args.family:
            if (family, form) not in kept:
                cell = run_cell(family, form, args.limit)
                kept[family, form] = asdict(cell)
                print(f"{family} {form}: {cell.outcome} {cell.note} ({cell.seconds} s)", file=sys.stderr, flush=True)
                if args.keep:
                    write_whole(args.keep, json.dumps(list(kept.values()), indent=1), PocketBERTError)
    chosen = [(family, form) for family in args.family for form in args.form]
    result["cells"] = [kept[key] for key in chosen]
    if args.docs:
        write_whole(args.docs, page(result), PocketBERTError)
    return result


def read_kept(path: Path | None) -> list[dict[str, Any]]:
    """Cells that an earlier run left there. Raises PocketBERTError for what is none."""
    if path is None or not path.exists():
        return []
    try:
        cells = json.loads(path.read_text())
        return [asdict(Cell(**cell)) for cell in cells]
    except (ValueError, TypeError, OSError) as error:
        raise PocketBERTError(f"--keep {path}: holds no cells of this program ({first_line(error)})") from error


MARKS = {"right": "✓", "refused": "refused", "wrong": "WRONG", "failed": "FAILED", "absent": "–"}


def mark(cell: Cell) -> str:
    """A cell of the table: how many generic kernels a right one has, and whether it takes one length alone."""
    words = [MARKS[cell.outcome]]
    if cell.outcome == "right":
        words += [f"{cell.generic} generic"] * bool(cell.generic) + ["one length"] * (not cell.elastic)
    return ", ".join(words)


def rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]], list[Cell]]:
    """The table's head and rows, and the cells that need a word of explanation."""
    cells = [Cell(**cell) for cell in result["cells"]]
    forms = list(dict.fromkeys(cell.form for cell in cells))
    families = dict.fromkeys(cell.family for cell in cells)
    marks = {(cell.family, cell.form): mark(cell) for cell in cells}
    table = [[family, *(marks.get((family, form), "") for form in forms)] for family in families]
    return ["family", *forms], table, [cell for cell in cells if cell.note]


def totals(result: dict[str, Any]) -> str:
    outcomes = [cell["outcome"] for cell in result["cells"] if cell["outcome"] != "absent"]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("right", "refused", "wrong", "failed"))
    return f"{len(outcomes)} cells: {counts}"


def show(result: dict[str, Any]) -> None:
    console = Console(highlight=False)
    head, body, notes = rows(result)
    table = Table(*head)
    for row in body:
        table.add_row(*row)
    console.print(table)
    for cell in notes:
        console.print(escape(f"{cell.family}, {cell.form}: {MARKS[cell.outcome]}: {cell.note}"))
    console.print(totals(result))


def page(result: dict[str, Any]) -> str:
    """docs/models.md."""
    head, body, notes = rows(result)
    lines = [
        "# Models",
        "",
        f"Made by `python benchmarks/coverage.py --docs docs/models.md` with transformers {result['transformers']} and "
        f"torch {result['torch']}: small random models of each family, five masks at three lengths, at most "
        f"{TOLERANCE:g} of the output's range from transformers; float16 files {HALF_TOLERANCE:g}, int8 and QDQ files "
        "half as far again as ONNX Runtime is with the same file.",
        "",
        f"{totals(result)}.",
        "",
        "| " + " | ".join(head) + " |",
        "| " + " | ".join("---" for _ in head) + " |",
        *("| " + " | ".join(row) + " |" for row in body),
        "",
        "✓ right; “n generic”: kernels that are TVM's own, right but slow; “one length”: the library runs the "
        "compiled length alone; sentence: with `--no-text`, so that pooling is in the graph, in 12 small kernels "
        "of TVM's (with the text the runtime pools, and there is none); – : the exporter cannot write this form, "
        "or ONNX Runtime does not get transformers' answer from what it wrote.",
        "",
        *(f"* {cell.family}, {cell.form}: {MARKS[cell.outcome]}: {cell.note}" for cell in notes),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME", help=", ".join(FAMILIES))
    add("--form", nargs="+", choices=FORMS, default=list(FORMS), metavar="NAME", help=", ".join(FORMS))
    add("--limit", type=number(float, 1, 3600), default=300.0, metavar="S", help="seconds for a cell (default: 300)")
    add("--keep", type=Path, metavar="FILE", help="cells that were measured, as JSON: read, and added to")
    add("--docs", type=Path, metavar="FILE", help="write the table as a page of the documentation")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
