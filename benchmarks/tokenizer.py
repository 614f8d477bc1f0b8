"""The library's tokenizer beside `tokenizers` (Rust) on the same text, one core each: MB of UTF-8 a second.

    python benchmarks/tokenizer.py [--text FILE] [--vocab FILE] [--megabytes 4] [--runs 7] [--json]

Both are called from Python: line by line, and with all lines in one call (for us one text, for `tokenizers` a batch).
Medians of interleaved runs, and the fastest.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}

import numpy as np
from onnx import TensorProto, helper, numpy_helper

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import compile
from benchmarks.command import RUNS, measure_and_show, new_parser, number
from compile.errors import CompileError
from compile.running.profile.machine import cpu_name

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def library(vocab: Path, folder: Path) -> compile.Library:
    """A model that looks its ids up, which is the least that a vocabulary can be built into."""
    pieces = len(vocab.read_bytes().splitlines())
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, 128])
    out = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 128, 1])
    table = numpy_helper.from_array(np.arange(pieces, dtype=np.float32)[:, None], "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["output"])], "ids", [ids], [out], [table]
    )
    model = folder / "ids.onnx"
    model.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )
    return compile.load(compile.build(model, target="host", vocab=vocab, out=folder / "artifact").folder)


def in_turns(text: str, vocab: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of every run."""
    from tokenizers import BertWordPieceTokenizer

    lines = text.split("\n")
    room = max(map(len, lines)) + 2
    rust = BertWordPieceTokenizer(str(vocab))
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as folder, library(vocab, Path(folder)) as ours:
        programs: dict[str, Callable[[], object]] = {
            "PocketBERT, one text": lambda: ours.tokenize(text, max_tokens=len(text) + 2),
            "PocketBERT, line by line": lambda: [ours.tokenize(line, max_tokens=room) for line in lines],
            "tokenizers, one batch": lambda: rust.encode_batch(lines),
            "tokenizers, line by line": lambda: [rust.encode(line) for line in lines],
        }
        wanted = [number for encoding in rust.encode_batch(lines) for number in encoding.ids[1:-1]]
        if ours.tokenize(text, max_tokens=len(text) + 2)[0][1:-1].tolist() != wanted:
            raise CompileError("the two do not agree on this text: nothing to compare")
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(runs):
            for name, program in programs.items():
                start = time.perf_counter()
                program()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if missing := [path for path in (args.text, args.vocab) if not path.is_file()]:
        raise CompileError(f"{missing[0]} is not here: give --text and --vocab")
    text = args.text.read_bytes()[: int(args.megabytes * 1e6)].decode(errors="ignore")
    size = len(text.encode()) / 1e6
    seconds = in_turns(text, args.vocab, args.runs)
    rates = {name: {"median": size / median(times), "best": size / min(times)} for name, times in seconds.items()}
    return {
        "cpu": cpu_name(),
        "text": args.text.name,
        "megabytes": size,
        "runs": args.runs,
        "mb_per_second": rates,
    }


def show(result: dict[str, Any]) -> None:
    what = f"{result['megabytes']:.1f} MB of {result['text']}"
    print(f"{what}, one core of {result['cpu']}, {result['runs']} runs\n")
    print(f"{'MB/s':26}{'median':>10}{'best':>10}")
    for name, rate in result["mb_per_second"].items():
        print(f"{name:26}{rate['median']:10.1f}{rate['best']:10.1f}")


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--text", type=Path, default=SHARED / "text/wikipedia-en.valid.txt", metavar="FILE")
    parser.add_argument("--vocab", type=Path, default=SHARED / "vocab/bert-base-uncased-vocab.txt", metavar="FILE")
    size = number(float, 0.001, 1000)
    parser.add_argument("--megabytes", type=size, default=4, metavar="N", help="of the text (default: 4)")
    parser.add_argument("--runs", type=RUNS, default=7, metavar="N", help="default: 7")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
