"""How many of many texts get from a library what transformers says of them: labels, entities, pieces, answers; and
what sentence-transformers (pip install it for `embed`) says: vectors.

    python benchmarks/equality.py [--texts 10000] [--task answer] [--json]      small models with random weights
    python benchmarks/equality.py --folder runs/squad/model --squad dev.json    a model of yours, on SQuAD's questions
    python benchmarks/equality.py --folder all-MiniLM-L6-v2 --lines dev.tsv     one for vectors, half on texts of a file

Texts are words of many scripts, odd blanks, emoji, marks, NUL and special pieces (`tests/support/tokenizers.py`),
contexts several of them. Results are equal where names and places are, in an order that may differ among scores that
are equal to 2e-6, which scores must be, and vectors to 1e-5.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import compile
from benchmarks.command import measure_and_show, new_parser, number
from benchmarks.families import randomise
from compile.errors import CompileError
from compile.running.profile.machine import cpu_name
from tests.support.answers import Pipeline
from tests.support.tokenizers import BERT, SHARED, random_text

SCORES, VECTORS = 2e-6, 1e-5
TOKENS = 128
HEADS = {
    "classify": "ForSequenceClassification",
    "entities": "ForTokenClassification",
    "fill": "ForMaskedLM",
    "embed": "Model",
    "answer": "ForQuestionAnswering",
}
PIPELINES = {"classify": "text-classification", "entities": "token-classification", "fill": "fill-mask"}
Found = list[tuple[Any, float]]  # names and places, with scores


def random_folder(task: str, folder: Path) -> Path:
    """A BERT of two small layers with the shared vocabulary."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    types = {"entities": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], "answer": ["begin", "end"]}
    names = types.get(task, ["bad", "so so", "good"])
    config = transformers.BertConfig(**sizes, id2label=dict(enumerate(names)))
    randomise(getattr(transformers, f"Bert{HEADS[task]}")(config)).save_pretrained(folder)
    vocab = SHARED / "vocab" / "bert-base-uncased-vocab.txt"
    pieces = {piece: n for n, piece in enumerate(vocab.read_text().splitlines())}
    transformers.BertTokenizer(vocab=pieces, model_max_length=TOKENS).save_pretrained(folder)
    if task == "embed":
        kinds = enumerate((("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")))
        modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                   for i, (kind, path) in kinds]  # fmt: skip
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(
            json.dumps({"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True})
        )
    return folder


def referee(task: str, folder: Path, tokens: int) -> Callable[..., Any]:
    """What transformers says: `Found` of a text, or a vector (of so many tokens at most), or answers."""
    import transformers

    transformers.logging.set_verbosity_error()
    if task == "answer":
        return Pipeline(folder)
    if task == "embed":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu")
        model.max_seq_length = min(tokens, model.max_seq_length or tokens)
        return lambda text: model.encode(text, show_progress_bar=False)
    options = {"aggregation_strategy": "simple"} if task == "entities" else {}
    pipe = transformers.pipeline(PIPELINES[task], model=str(folder), tokenizer=str(folder), device="cpu", **options)
    if task == "classify":
        return lambda text: [(e["label"], e["score"]) for e in pipe(text, top_k=None, truncation=True)]
    if task == "entities":
        return lambda text: [((e["entity_group"], e["start"], e["end"]), float(e["score"])) for e in pipe(text)]
    names = pipe.tokenizer.convert_ids_to_tokens
    return lambda text: [(names(e["token"]), e["score"]) for e in pipe(text, top_k=5)]


def ours(task: str, library: compile.Library) -> Callable[[str], Any]:
    if task == "classify":
        return lambda text: [(e.name, e.score) for e in library.classify(text, truncate=True)]
    if task == "entities":
        return lambda text: [((e.name, e.begin, e.end), e.score) for e in library.entities(text, truncate=True)]
    if task == "embed":
        return lambda text: library.embed(text, truncate=True)
    return lambda text: [(e.name, e.score) for e in library.fill(text, top=5)[0]]


def difference(got: Any, wanted: Any) -> float:
    """The greatest between scores or elements; infinite where names or places differ."""
    if isinstance(wanted, np.ndarray):
        return float(np.abs(got - wanted).max())
    if len(got) != len(wanted):
        return np.inf
    worst = 0.0
    for i, ((name, score), (_, theirs)) in enumerate(zip(got, wanted, strict=True)):
        close = [other for other, value in wanted if abs(value - theirs) < SCORES]
        if name not in close and i + 1 < len(wanted):  # the last may be one of several that are as good
            return np.inf
        worst = max(worst, abs(score - theirs))
    return worst


def questions(args: argparse.Namespace, rng: random.Random) -> Iterator[tuple[str, str]]:
    if args.squad:
        for article in json.loads(args.squad.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                yield from ((entry["question"], paragraph["context"]) for entry in paragraph["qas"])
        return
    while True:
        question = random_text(rng, BERT)[:30].replace("[CLS]", "")  # the pipeline takes it for a place of an answer
        context = " ".join(random_text(rng, BERT) for _ in range(rng.randrange(1, 8)))
        if question.strip() and context.strip():
            yield question, context


def texts_of(args: argparse.Namespace, rng: random.Random) -> Iterator[str]:
    """Random ones; with --lines every second a line of a file, or what stands between its tabs."""
    lines = [line for path in args.lines for line in path.read_text(encoding="utf-8").splitlines()]
    fields = sorted({field for line in lines for field in line.split("\t") if " " in field})
    rng.shuffle(fields)
    while True:
        yield random_text(rng, BERT)
        if fields:
            yield fields.pop()


def measure_task(task: str, folder: Path, artifact: Path, args: argparse.Namespace) -> dict[str, Any]:
    rng, worst, other, begin = random.Random(args.seed), 0.0, [], time.perf_counter()
    bound = VECTORS if task == "embed" else SCORES
    with compile.load(artifact, threads=1) as library:
        theirs = referee(task, folder, library.manifest.tokens)
        if task == "answer":
            most = min(384, library.manifest.tokens)
            given: Any = questions(args, rng)

            def compare(pair: tuple[str, str]) -> float:
                settings = {"max_tokens": most, "stride": most // 3, "longest": 15}
                got = library.answer(*pair, 3, **settings)
                wanted = theirs(*pair, 3, **settings)
                return difference(*([((e.text, e.begin, e.end), e.score) for e in found] for found in (got, wanted)))
        else:
            given, own = texts_of(args, rng), ours(task, library)

            def compare(text: str) -> float:
                text = f"{text.replace('[MASK]', '')[:60]} [MASK] the" if task == "fill" else text
                return difference(own(text), theirs(text))

        texts = 0
        for one in given:
            if texts == args.texts:
                break
            texts += 1
            error = compare(one)
            if error > bound:
                other.append(ascii(one)[:200])
            else:
                worst = max(worst, error)
    return {"texts": texts, "equal": texts - len(other), "worst": worst, "differ": other[:20],
            "seconds": time.perf_counter() - begin}  # fmt: skip


def measure(args: argparse.Namespace) -> dict[str, Any]:
    vectors = (args.folder / "modules.json").exists() if args.folder else "embed" in args.task
    if vectors and not find_spec("sentence_transformers"):
        raise CompileError("vectors are compared with sentence-transformers': pip install it, or choose another --task")
    results = {}
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as kept:
        for task in args.task if args.folder is None else [None]:
            folder = args.folder or random_folder(task, Path(kept) / task)
            built = compile.build(folder, target="host", seq_len=args.seq_len, out=Path(kept) / "artifact")
            task = built.manifest.task
            if task is None:
                raise CompileError(f"{folder} has no task to compare")
            results[task] = measure_task(task, folder, built.folder, args)
    return {"machine": cpu_name(), "seed": args.seed, "tasks": results}


def show(result: dict[str, Any]) -> None:
    print("| task | texts | equal | worst difference among those |\n| --- | --- | --- | --- |")
    for task, figures in result["tasks"].items():
        print(f"| {task} | {figures['texts']} | {figures['equal']} | {figures['worst']:.1e} |")
    for task, figures in result["tasks"].items():
        for text in figures["differ"]:
            print(f"{task} differs: {text}")


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--texts", type=number(int, 1, 1 << 20), default=10_000)
    parser.add_argument("--task", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--folder", type=Path, help="a fine-tuned folder in place of random weights")
    parser.add_argument("--squad", type=Path, help="a file of SQuAD, whose questions are asked")
    parser.add_argument("--lines", type=Path, nargs="+", default=[], help="files of whose lines half of the texts are")
    parser.add_argument("--seq-len", type=number(int, 8, 512), default=TOKENS)
    parser.add_argument("--seed", type=number(int, 0, 1 << 31), default=0)
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
