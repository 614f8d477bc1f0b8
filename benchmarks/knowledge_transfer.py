"""Does knowledge transfer help, and which strategy is best? The papers' ablation (Table 5 of the ICLR paper), small.

One teacher, then students that differ only in how they are trained, each with several seeds and all with the same
number of optimizer steps; held-out masked words decide. As in the papers' ablation the students keep LayerNorm and
gelu unless --nonorm is given.

    python benchmarks/knowledge_transfer.py --text train.txt --valid valid.txt
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import new_file, new_parser, number
from pocketbert.command import exit_status


@dataclass(frozen=True)
class Size:
    """How large everything is; the teacher's and students' streams and heads are alike."""

    layers: int
    hidden_size: int
    embedding_size: int
    heads: int
    teacher_inner: int
    student_inner: int
    vocab_size: int
    length: int
    long_length: int  # of the last tenth of the batches: what finetuning.py reads is no longer
    batch_size: int
    teacher_steps: int
    transfer_steps: int
    distillation_steps: int
    held_out_batches: int


SIZES = {
    "smoke": Size(2, 32, 16, 2, 48, 16, 1000, 32, 64, 8, 12, 4, 4, 2),
    "cpu": Size(3, 96, 48, 2, 128, 32, 4000, 48, 128, 32, 1400, 110, 130, 40),
    "gpu": Size(12, 512, 128, 4, 1024, 128, 30522, 128, 384, 256, 20000, 4800, 7200, 100),
}
HELP = {"smoke": "seconds, to try the program", "cpu": "at most 20 minutes on 2 cores", "gpu": "hours on one GPU"}
SHARED = Path("../shared/data")
SEEDS, PROCESSES = number(int, 1, 1000), number(int, 1, 64)
TRAINED = "what was trained is kept; the same command goes on from there"
BERTS = SHARED / "vocab/bert-base-uncased-vocab.txt"
POSITIONS = 384  # room to fine-tune on longer texts
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "4090": 165e12}
"""FLOP/s of dense bfloat16 matrix products, by a part of the GPU's name, as its maker states."""


@dataclass(frozen=True)
class Recipe:
    """A row of the table: a strategy, and the factors that are switched off."""

    name: str
    strategy: str
    without: tuple[str, ...] = ()


RECIPES = (
    Recipe("bare", "bare"),
    Recipe("+ PD", "none"),
    Recipe("+ PD, ends copied", "copied"),
    Recipe("+ PD + FMT", "progressive", ("attention",)),
    Recipe("+ PD + FMT + AT (PKT)", "progressive"),
    Recipe("JKT", "joint"),
    Recipe("AKT", "auxiliary"),
)
CLAIMS = (  # the papers', better first; and whether more is gained than copied embeddings and classifiers give
    ("+ PD", "bare"),
    ("+ PD + FMT", "+ PD"),
    ("+ PD + FMT", "+ PD, ends copied"),
    ("+ PD + FMT + AT (PKT)", "+ PD + FMT"),
    ("JKT", "AKT"),
    ("+ PD + FMT + AT (PKT)", "JKT"),
)


def model_fields(size: Size, inner: int, ffns: int) -> dict[str, object]:
    return {
        "vocab_size": size.vocab_size, "max_position_embeddings": POSITIONS, "embedding_size": size.embedding_size,
        "num_hidden_layers": size.layers, "hidden_size": size.hidden_size, "num_attention_heads": size.heads,
        "bottleneck_size": inner, "intermediate_size": 4 * inner, "num_feedforward_networks": ffns,
        "hidden_dropout": 0.0, "attention_dropout": 0.0,
    }  # fmt: skip


def settings(size: Size, steps: int, seed: int, threads: int) -> object:
    import torch

    from model.settings import TrainSettings

    torch.set_num_threads(threads)
    return TrainSettings(
        steps=steps, batch_size=size.batch_size, optimizer="adamw", learning_rate=2e-3 if size.layers < 6 else 5e-4,
        seed=seed, checkpoint_every=max(1, steps // 4), log_every=max(1, steps // 4), keep=1,
        workers=0 if threads == 1 else 2 * (size.layers > 6),
    )  # fmt: skip


def train_teacher(size: Size, work: Path, text: Path, vocabulary: Path, threads: int) -> dict[str, float]:
    """Its held-out metrics; it is left in work/teacher/model."""
    result = work / "teacher/held-out.json"
    if result.exists():
        return json.loads(result.read_text())
    from model.recipes.pretrain import PretrainConfig, pretrain
    from model.recipes.sources import ModelSource, TextData

    source = ModelSource(preset="ib-bert-large", fields=model_fields(size, size.teacher_inner, 1))
    data = TextData(str(work / "train"), (str(text),), str(vocabulary), size.length, size.long_length)
    train, started = settings(size, size.teacher_steps, 0, threads), time.perf_counter()
    trained = pretrain(PretrainConfig(str(work / "teacher"), source, data, train))  # type: ignore[arg-type]
    return kept_metrics(size, work, trained, started)


def student_folder(work: Path, recipe: Recipe, seed: int, nonorm: bool) -> Path:
    return work / f"{recipe.strategy}{''.join('-' + name for name in recipe.without)}-{seed}{'-nonorm' * nonorm}"


def train_student(job: tuple[Size, Path, Recipe, int, bool, int]) -> dict[str, float]:
    """The held-out metrics of one student; kept in its folder, so that an interrupted benchmark goes on."""
    size, work, recipe, seed, nonorm, threads = job
    folder = student_folder(work, recipe, seed, nonorm)
    result = folder / "held-out.json"
    if result.exists():
        return json.loads(result.read_text())
    from model.recipes.distill import DistillConfig, Transfer, distill
    from model.recipes.pretrain import PretrainConfig, pretrain
    from model.recipes.sources import ModelSource, TextData

    fields = model_fields(size, size.student_inner, 2)
    fields |= {} if nonorm else {"normalization": "layer-norm", "activation": "gelu"}
    source, data = (
        ModelSource(preset="mobilebert-paper", fields=fields),
        TextData(str(work / "train"), (), "", size.length, size.long_length),
    )
    total, started = size.transfer_steps + size.distillation_steps, time.perf_counter()
    if recipe.strategy == "bare":
        trained = pretrain(PretrainConfig(str(folder), source, data, settings(size, total, seed, threads)))  # type: ignore[arg-type]
    else:
        off = dict.fromkeys(recipe.without, 0.0)
        alone = recipe.strategy in ("none", "copied")
        transfer = Transfer(recipe.strategy, 0 if alone else size.transfer_steps, **off)  # type: ignore[arg-type]
        steps = total if alone else size.distillation_steps
        config = DistillConfig(
            str(folder),
            str(work / "teacher" / "model"),
            source,
            data,
            transfer,
            settings(size, steps, seed, threads),  # type: ignore[arg-type]
        )
        trained = distill(config)
    return kept_metrics(size, work, trained, started)


def kept_metrics(size: Size, work: Path, trained: Path, started: float) -> dict[str, float]:
    from pocketbert.files import written_whole

    seconds = time.perf_counter() - started
    metrics = held_out(size, work, trained) | {"seconds": seconds}
    with written_whole(trained.parent / "held-out.json") as file:
        file.write(json.dumps(metrics).encode())
    return metrics


def speed(size: Size, folder: Path, inner: int, ffns: int, taught: bool) -> dict[str, float]:
    """Of the last stage, by its log: tokens a second, the share of time spent waiting for data, FLOP/s, peak memory.

    FLOPs of a token are 2 × multiply-adds of the matrix products: forward, and twice as many backward; of the teacher
    forward alone; the words' scores for the 15 % of tokens that are predicted.
    """
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["stage"] == lines[-1]["stage"]][-3:]
    measured = {name: statistics.mean(line[name] for line in lines) for name in ("tokens_per_second", "data_wait")}
    flops = 3 * forward_flops(size, inner, ffns) + taught * forward_flops(size, size.teacher_inner, 1)
    measured["flops_per_second"] = flops * measured["tokens_per_second"]
    peaks = [line["peak_memory_bytes"] for line in lines if "peak_memory_bytes" in line]
    return measured | ({"peak_memory_bytes": max(peaks)} if peaks else {})


def forward_flops(size: Size, inner: int, ffns: int) -> float:
    """Of a token."""
    from model import PRESETS
    from model.counting import count

    config = replace(PRESETS["mobilebert-paper"], **model_fields(size, inner, ffns))  # type: ignore[arg-type]
    encoder = sum(row.flops for row in count(config, size.length)) / size.length
    return encoder + 0.15 * 2 * size.hidden_size * (size.hidden_size + size.vocab_size)


def loader_speed(size: Size, work: Path) -> float:
    """Tokens a second that one process makes, with nothing else to do, over about two seconds."""
    from model.data import PreTrainingBatches

    batches, made, started = PreTrainingBatches(work / "train", size.length, size.vocab_size), 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < 2:
        batches.batch(made, 0, 1, size.batch_size)
        made += 1
    return made * size.batch_size * size.length / seconds


def held_out(size: Size, work: Path, folder: Path) -> dict[str, float]:
    import torch

    from model import load_checkpoint
    from model.data import PreTrainingBatches
    from model.recipes.evaluate import evaluate_words

    model = load_checkpoint(folder).to("cuda" if torch.cuda.is_available() else "cpu")
    batches = PreTrainingBatches(work / "valid", size.length, size.vocab_size)
    return evaluate_words(model, batches, size.held_out_batches, 32)


def table(results: dict[str, list[dict[str, float]]], peak: float | None) -> str:
    """Mean ± sample deviation over seeds; loss in nats a masked word; `peak`: FLOP/s of the GPU, if it is known."""
    head = f"{'students':24}{'loss':>16}{'accuracy %':>16}{'seconds':>9}{'tokens/s':>11}{'waiting %':>11}"
    lines = [f"{head}{'GFLOP/s':>10}" + (f"{'of peak %':>11}{'GiB':>6}" if peak else "")]
    for name, runs in results.items():
        cells = []
        for key, factor, digits in (("mlm", 1, 3), ("mlm_accuracy", 100, 2)):
            values = [factor * run[key] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        cells = [f"{name:24}{cells[0]:>16}{cells[1]:>16}{mean['seconds']:9.0f}{mean['tokens_per_second']:11,.0f}"]
        cells += [f"{100 * mean['data_wait']:11.1f}{mean['flops_per_second'] / 1e9:10,.1f}"]
        if peak:
            cells += [f"{100 * mean['flops_per_second'] / peak:11.1f}{mean['peak_memory_bytes'] / 2**30:6.1f}"]
        lines.append("".join(cells))
    return "\n".join(lines)


def verdicts(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Which of the papers' orderings held, seed by seed, by held-out loss."""
    lines = []
    for better, worse in CLAIMS:
        pairs = list(zip(results[better], results[worse], strict=True))
        diverged = [name for name in (better, worse) if not all(math.isfinite(run["mlm"]) for run in results[name])]
        if diverged:
            lines.append(f"{better} below {worse}: failed, {' and '.join(diverged)} diverged")
            continue
        wins = sum(a["mlm"] < b["mlm"] for a, b in pairs)
        gain = statistics.mean(b["mlm"] - a["mlm"] for a, b in pairs)
        word = "held" if wins == len(pairs) else "did not hold" if not wins else "held for some seeds"
        lines.append(f"{better} below {worse}: {word} ({wins} of {len(pairs)} seeds, {gain:+.3f} nats)")
    return lines


def gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def machine() -> str:
    import torch

    return f"{platform.machine()}, {os.cpu_count()} cores, {gpu() or 'no GPU'}, torch {torch.__version__}"


def compare_and_show(args: argparse.Namespace) -> None:
    from model.data import prepare, read_vocabulary, train_vocabulary

    size, work = SIZES[args.size], args.work / args.size
    started = time.perf_counter()
    vocabulary = args.vocabulary or (BERTS if BERTS.exists() and args.size != "smoke" else work / "vocab.txt")
    if not vocabulary.exists():
        train_vocabulary([args.valid if args.size == "smoke" else args.text], vocabulary, size.vocab_size)
    size = replace(size, vocab_size=read_vocabulary(vocabulary).get_vocab_size())
    if not (work / "valid").exists():
        prepare([args.valid], vocabulary, work / "valid")
    text = args.valid if args.size == "smoke" else args.text
    teacher = train_teacher(size, work, text, vocabulary, args.processes)
    jobs = [(size, work, r, seed, args.nonorm, 1) for seed in range(1, args.seeds + 1) for r in RECIPES]
    metrics = []
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for job, trained in zip(jobs, pool.imap(train_student, jobs), strict=True):
            metrics.append(trained)
            print(f"{len(metrics)}/{len(jobs)} {job[2].name}, seed {job[3]}: {trained['mlm']:.3f} nats", flush=True)
    results = {"teacher": [teacher | speed(size, work / "teacher", size.teacher_inner, 1, False)]}
    for job, trained in zip(jobs, metrics, strict=True):
        folder = student_folder(work, job[2], job[3], args.nonorm)
        measured = speed(size, folder, size.student_inner, 2, job[2].strategy != "bare")
        results.setdefault(job[2].name, []).append(trained | measured)
    peak = next((flops for name, flops in PEAKS.items() if name in gpu()), None)
    print(f"{machine()}, {args.size} size, {args.seeds} seeds, {time.perf_counter() - started:.0f} s in all\n")
    print(table(results, peak) + "\n")
    print("\n".join(verdicts(results)))
    print(f"the loader alone makes {loader_speed(size, work):,.0f} tokens/s a process")
    if args.json:
        args.json.write_text(json.dumps({"size": asdict(size), "results": results}, indent=1) + "\n")


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--text", type=Path, default=SHARED / "text/wikipedia-en.train.txt", metavar="FILE")
    parser.add_argument("--valid", type=Path, default=SHARED / "text/wikipedia-en.valid.txt", metavar="FILE")
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help="default: BERT's if it is here, else trained")
    parser.add_argument("--size", choices=SIZES, default="cpu", help=", ".join(f"{k}: {v}" for k, v in HELP.items()))
    parser.add_argument("--seeds", type=SEEDS, default=3, metavar="N", help="students of each kind (default: 3)")
    at_once = "students trained at a time (default: 2)"
    parser.add_argument("--processes", type=PROCESSES, default=2, metavar="N", help=at_once)
    parser.add_argument("--nonorm", action="store_true", help="students with NoNorm and relu, as MobileBERT has")
    parser.add_argument("--work", type=Path, default=Path("runs/knowledge-transfer"), metavar="FOLDER")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures there too")
    return exit_status(compare_and_show, parser.parse_args(), TRAINED)


if __name__ == "__main__":
    sys.exit(main())
