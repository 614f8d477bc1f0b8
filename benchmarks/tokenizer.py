"""The library's tokenizer beside `tokenizers` (Rust) on the same text, one core each: MB of UTF-8 a second.

    python benchmarks/tokenizer.py [--text FILE] [--vocab FILE] [--megabytes 4] [--runs 7] [--json]

Both are called from Python: line by line, and with all lines in one call (for us one text, for `tokenizers` a batch).
Medians of interleaved runs, and the fastest.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}

import numpy as np
from onnx import TensorProto, helper, numpy_helper

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import compile
from compile.profile.machine import cpu_name

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def library(vocab: Path, folder: Path) -> compile.Library:
    """A model that looks its ids up, which is the least that a vocabulary can be built into."""
    pieces = len(vocab.read_bytes().splitlines())
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, 128])
    out = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 128, 1])
    table = numpy_helper.from_array(np.zeros((pieces, 1), np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["output"])], "ids", [ids], [out], [table]
    )
    model = folder / "ids.onnx"
    model.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )
    return compile.load(compile.build(model, target="host", vocab=vocab, out=folder / "artifact").folder)


def measure(text: str, vocab: Path, runs: int) -> dict[str, list[float]]:
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
            sys.exit("the two do not agree on this text: nothing to compare")
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(runs):
            for name, program in programs.items():
                start = time.perf_counter()
                program()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=SHARED / "text/wikipedia-en.valid.txt", metavar="FILE")
    parser.add_argument("--vocab", type=Path, default=SHARED / "vocab/bert-base-uncased-vocab.txt", metavar="FILE")
    parser.add_argument("--megabytes", type=float, default=4, metavar="N", help="of the text (default: 4)")
    parser.add_argument("--runs", type=int, default=7, metavar="N")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if missing := [path for path in (args.text, args.vocab) if not path.is_file()]:
        parser.exit(2, f"{missing[0]} is not here: give --text and --vocab\n")
    text = args.text.read_bytes()[: int(args.megabytes * 1e6)].decode(errors="ignore")
    size = len(text.encode()) / 1e6
    seconds = measure(text, args.vocab, args.runs)
    rates = {name: {"median": size / median(taken), "best": size / min(taken)} for name, taken in seconds.items()}
    if args.json:
        print(json.dumps({"cpu": cpu_name(), "megabytes": size, "mb_per_second": rates}, indent=2))
        return
    print(f"{size:.1f} MB of {args.text.name}, one core of {cpu_name()}, {args.runs} runs\n")
    print(f"{'MB/s':26}{'median':>10}{'best':>10}")
    for name, rate in rates.items():
        print(f"{name:26}{rate['median']:10.1f}{rate['best']:10.1f}")


if __name__ == "__main__":
    main()
