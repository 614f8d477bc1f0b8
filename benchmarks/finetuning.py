"""Does what was transferred last? The students of knowledge_transfer.py, fine-tuned on GLUE and SQuAD.

Two students of one architecture, pre-trained for as many steps, one alone and one by progressive knowledge transfer,
learn each task with the same budget; with several seeds each, from pre-training on. The official metrics of the
development sets stand beside those of the papers' models and of one answer to everything.

    python benchmarks/knowledge_transfer.py
    python benchmarks/finetuning.py
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import new_file, new_parser
from benchmarks.knowledge_transfer import BERTS, PROCESSES, SEEDS, SHARED, TRAINED, machine
from model import ModelError
from pocketbert.command import exit_status


@dataclass(frozen=True)
class Task:
    """A task, its metrics, and the papers' in percent: bare and with transfer (+ PD + FMT + AT), both without OPT."""

    name: str
    train: str
    dev: str
    metrics: tuple[str, ...]
    bare: str
    transferred: str


TASKS = (  # the ACL paper's Table 9 on dev, else (*) Table 4 on the GLUE server's test, else Table 5 on dev
    Task("sst-2", "glue/SST-2/train.tsv", "glue/SST-2/dev.tsv", ("accuracy",), "90.1", "92.5"),
    Task("cola", "glue/CoLA/train.tsv", "glue/CoLA/dev.tsv", ("matthews",), "", "51.1*"),
    Task("mrpc", "glue/MRPC/train.tsv", "glue/MRPC/dev.tsv", ("accuracy", "f1"), "84.3", "87.0"),
    Task("sts-b", "glue/STS-B/train.tsv", "glue/STS-B/dev.tsv", ("pearson", "spearman"), "", "84.8*"),
    Task("rte", "glue/RTE/train.tsv", "glue/RTE/dev.tsv", ("accuracy",), "", "70.4*"),
    Task("squad-v1.1", "squad/train-v1.1.subset.json", "squad/dev-v1.1.json", ("exact_match", "f1"), "", "83.4, 90.3"),
    Task("squad-v2.0", "squad/train-v2.0.subset.json", "squad/dev-v2.0.json", ("exact", "f1"), "", "77.6, 80.2"),
)
STARTS = {"bare": "bare", "PKT": "progressive"}
"""Title to the students' folders, which end in -SEED."""


@dataclass(frozen=True)
class Budget:
    """What both students get. Lengths in tokens; SQuAD's dev set is cut to its first articles where it says so."""

    epochs: tuple[float, ...]  # of each task
    batch_size: int
    learning_rate: float
    length: int
    squad_length: int
    stride: int
    articles: int | None


BUDGETS = {
    "smoke": Budget((0.002, 0.02, 0.03, 0.02, 0.05, 0.01, 0.01), 8, 1e-3, 32, 64, 64, 1),
    "cpu": Budget((0.25, 1.5, 3, 3, 3, 0.7, 0.7), 32, 1e-3, 64, 128, 64, 6),
    "gpu": Budget((3, 5, 5, 5, 5, 3, 3), 32, 1e-4, 128, 384, 128, None),
}
HELP = {"smoke": "seconds, to try the program", "cpu": "at most 30 minutes on 2 cores", "gpu": "on one GPU"}


@dataclass(frozen=True)
class Job:
    task: Task
    start: str
    seed: int
    students: Path
    vocabulary: Path
    train: Path
    dev: Path
    work: Path
    budget: Budget
    threads: int

    def dev_metrics(self) -> dict[str, float]:
        """The dev metrics, 0 to 100; kept in the job's folder, so that an interrupted benchmark goes on."""
        import torch

        from model.finetune.squad import VERSIONS
        from model.recipes.finetune import FinetuneConfig, TaskData, run_once
        from model.recipes.sources import ModelSource
        from model.settings import TrainSettings

        torch.set_num_threads(self.threads)
        b, squad = self.budget, self.task.name in VERSIONS
        epochs = b.epochs[[task.name for task in TASKS].index(self.task.name)]
        length = b.squad_length if squad else b.length
        data = TaskData(
            vocabulary=str(self.vocabulary), train=str(self.train), dev=str(self.dev), sequence_length=length,
            stride=b.stride,
        )  # fmt: skip
        train = TrainSettings(
            optimizer="adamw", learning_rate=b.learning_rate, batch_size=b.batch_size, seed=self.seed,
            checkpoint_every=10**6, keep=1, log_every=100,
        )  # fmt: skip
        output = self.work / f"{self.task.name}-{self.start}-{self.seed}"
        source = ModelSource(folder=str(self.students / f"{STARTS[self.start]}-{self.seed}" / "model"))
        metrics = run_once(FinetuneConfig(str(output), self.task.name, source, data, epochs, train))["dev"]
        return {name: metrics[name] * (1 if squad else 100) for name in self.task.metrics}


def one_answer(task: Task, dev: Path) -> dict[str, float]:
    """What the most frequent label, or for SQuAD no answer, gets on `dev`, 0 to 100."""
    from model.finetune import glue, squad
    from model.finetune.metrics import compute

    if task.name in squad.VERSIONS:
        questions = squad.read_questions(dev)
        values = squad.score(questions, {q.id: "" for q in questions}, squad.VERSIONS[task.name])
        return {name: values[name] for name in task.metrics}
    labels = [example.label or 0.0 for example in glue.read_examples(glue.TASKS[task.name], dev)]
    values = compute(task.metrics, labels, [statistics.mode(labels)] * len(labels))
    return {name: 100 * value for name, value in values.items()}


def dev_file(task: Task, data: Path, work: Path, articles: int | None) -> Path:
    """The task's own, or SQuAD's first articles."""
    whole = data / task.dev
    if articles is None or whole.suffix != ".json":
        return whole
    part = work / f"{whole.stem}-{articles}.json"
    if not part.exists():
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"data": json.loads(whole.read_text())["data"][:articles]}))
    return part


def cell(runs: Sequence[dict[str, float]]) -> str:
    """Mean ± sample deviation of each metric."""
    cells = []
    for name in runs[0]:
        values = [run[name] for run in runs]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.1f}{spread}")
    return ", ".join(cells)


def table(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    lines = [
        f"{'task':12}{'metrics':20}{'one answer':>12}{'bare':>26}{'PKT':>26}{'paper: bare':>13}{'with transfer':>15}"
    ]
    for task in TASKS:
        if task.name in results:
            row = results[task.name]
            lines.append(
                f"{task.name:12}{', '.join(task.metrics):20}{cell(row['one answer']):>12}"
                f"{cell(row['bare']):>26}{cell(row['PKT']):>26}{task.bare:>13}{task.transferred:>15}"
            )
    return "\n".join(lines)


def finetune_and_show(args: argparse.Namespace) -> None:
    started, work = time.perf_counter(), args.work / args.size
    students = args.students or Path("runs/knowledge-transfer") / args.size
    if not (students / "bare-1/model").exists():
        raise ModelError(f"no students in {students}: run knowledge_transfer.py, or give --students")
    jobs: list[Job] = []
    for task in (task for task in TASKS if task.name in args.tasks):
        if missing := [file for file in (task.train, task.dev) if not (args.data / file).exists()]:
            print(f"{task.name} is left out: {args.data / missing[0]} is not here")
            continue
        dev = dev_file(task, args.data, work, BUDGETS[args.size].articles)
        jobs += [
            Job(task, start, seed, students, args.vocabulary or BERTS, args.data / task.train, dev, work,
                BUDGETS[args.size], 1)
            for seed in range(1, args.seeds + 1) for start in STARTS
        ]  # fmt: skip
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for number, (job, metrics) in enumerate(zip(jobs, pool.imap(Job.dev_metrics, jobs), strict=True), 1):
            results.setdefault(job.task.name, {"one answer": [one_answer(job.task, job.dev)]})
            results[job.task.name].setdefault(job.start, []).append(metrics)
            print(f"{number}/{len(jobs)} {job.task.name}, {job.start}, seed {job.seed}: {cell([metrics])}", flush=True)
    print(f"\n{machine()}, {args.size} size, {args.seeds} seeds, {time.perf_counter() - started:.0f} s in all\n")
    print(table(results))
    print("\nin percent; * on the GLUE server's test set")
    if args.json:
        args.json.write_text(json.dumps({"budget": asdict(BUDGETS[args.size]), "results": results}, indent=1) + "\n")


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--students", type=Path, metavar="FOLDER", help="default: what knowledge_transfer.py made in the same size"
    )
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help="that of the students; default: BERT's")
    parser.add_argument("--data", type=Path, default=SHARED, metavar="FOLDER", help="holds glue/ and squad/")
    parser.add_argument("--size", choices=BUDGETS, default="cpu", help=", ".join(f"{k}: {v}" for k, v in HELP.items()))
    parser.add_argument("--tasks", nargs="+", choices=[t.name for t in TASKS], default=[t.name for t in TASKS])
    parser.add_argument("--seeds", type=SEEDS, default=3, metavar="N", help="students of each kind (default: 3)")
    parser.add_argument("--processes", type=PROCESSES, default=2, metavar="N", help="runs at a time (default: 2)")
    parser.add_argument("--work", type=Path, default=Path("runs/finetuning"), metavar="FOLDER")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures there too")
    return exit_status(finetune_and_show, parser.parse_args(), TRAINED)


if __name__ == "__main__":
    sys.exit(main())
