"""Do sentence pairs tell by their lengths, or by the tokens at their ends, whether B follows A?

A decision tree on the two lengths, and one on the first and last tokens of both segments, learn the label from one half
of the pairs and are asked about the other. What they gain over the commoner label is what a model could learn of next
sentences without reading. Padding is the share of tokens that no text fills.

    python benchmarks/pairs.py --text train.txt --vocabulary vocab.txt
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import measure_and_show, new_parser, number
from benchmarks.knowledge_transfer import BERTS, SHARED

COMMON = 200  # tokens at an end that are told apart; all others are one
DEPTHS = {"lengths": 4, "boundary": 12}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from model.data import Shards, prepare
    from model.data.instances import Instances

    with tempfile.TemporaryDirectory(prefix="pocketbert-") as name:
        part = Path(name, "text.txt")
        with args.text.open(encoding="utf-8") as file:
            part.write_text(file.read(int(args.megabytes * 1e6)).rpartition("\n\n")[0] + "\n", encoding="utf-8")
        shards = Shards(prepare([part], args.vocabulary, Path(name, "corpus")))
        rows = [row_of(Instances(shards, length, seed=0), length, args.pairs) for length in args.lengths]
        return {"megabytes": part.stat().st_size / 1e6, "pairs": args.pairs, "rows": rows}


def row_of(instances: Any, length: int, count: int) -> dict[str, Any]:
    """Points of 100 that each tree gains over the commoner label, and the share of padding."""
    pairs = [split(instances[divmod(number, len(instances))]) for number in range(count)]
    labels = np.array([label for *_, label in pairs])
    common = int(labels[count // 2 :].mean() > 0.5)
    majority = 100 * float((labels[count // 2 :] == common).mean())
    features = {
        "lengths": np.array([[len(a), len(b)] for a, b, _ in pairs]),
        "boundary": one_hot(np.array([[a[0], a[-1], b[0], b[-1]] for a, b, _ in pairs])),
    }
    gains = {name: gain(values, labels, DEPTHS[name], majority) for name, values in features.items()}
    filled = sum(len(a) + len(b) + 3 for a, b, _ in pairs) / (length * count)
    return {"length": length, "majority": majority, **gains, "padding": 1 - filled}


def split(instance: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """A, B and the label; of words that are predicted, the word itself."""
    ids = np.where(instance.labels >= 0, instance.labels, instance.input_ids)
    second = int(instance.token_type_ids.sum())
    return ids[1 : len(ids) - second - 1], ids[len(ids) - second : -1], instance.next_sentence


def one_hot(tokens: np.ndarray) -> np.ndarray:
    columns = []
    for end in tokens.T:
        values, counts = np.unique(end, return_counts=True)
        columns.append(end[:, None] == values[np.argsort(-counts)[:COMMON]])
    return np.concatenate(columns, 1)


def gain(features: np.ndarray, labels: np.ndarray, depth: int, majority: float) -> float:
    from sklearn.tree import DecisionTreeClassifier

    half = len(labels) // 2
    tree = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=20, random_state=0)
    return 100 * float(tree.fit(features[:half], labels[:half]).score(features[half:], labels[half:])) - majority


def show(result: dict[str, Any]) -> None:
    print(f"{result['pairs']} pairs from {result['megabytes']:.1f} MB of text; points over the commoner label\n")
    print(f"{'tokens':>7}{'majority':>10}{'lengths':>9}{'boundary':>10}{'padding':>9}")
    for row in result["rows"]:
        print(
            f"{row['length']:7}{row['majority']:9.1f}%{row['lengths']:+9.1f}{row['boundary']:+10.1f}{row['padding']:9.1%}"
        )


def main() -> int:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--text", type=Path, default=SHARED / "text/wikipedia-en.train.txt", metavar="FILE", help="plain text")
    add("--vocabulary", type=Path, default=BERTS, metavar="FILE")
    add("--megabytes", type=number(float, 0.1, 1e6), default=12, metavar="N", help="of the text (default: 12)")
    add("--pairs", type=number(int, 100, 10**7), default=8000, metavar="N", help="of each length (default: 8000)")
    add("--lengths", type=number(int, 8, 4096), nargs="+", default=[64, 128, 512], metavar="N", help="64 128 512")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
