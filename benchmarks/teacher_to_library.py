"""From text to libraries: what each step costs, and what it loses.

A teacher is pre-trained, a smaller MobileBERT learns from it layer by layer and then by distillation, is fine-tuned on
tasks of GLUE (once as usual, once as int8 computes), and compiled in float32 and in int8; every library answers the
whole development set from text. Each step is one command of the project. What is done is kept in --work, and the same
command goes on after an interruption. --scale 1 is meant for three hours of two cores.

    python benchmarks/teacher_to_library.py
    python benchmarks/teacher_to_library.py --scale 0.1 --tasks sst-2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import RUNS, measure_and_show, new_parser, number
from pocketbert.errors import PocketBERTError
from pocketbert.files import write_whole

SHARED = Path("../shared/data")
TASKS = {  # folder of GLUE, epochs at --scale 1, learning rate
    "sst-2": ("SST-2", 2.0, 3e-4),
    "mrpc": ("MRPC", 6.0, 1e-4),
    "rte": ("RTE", 6.0, 1e-4),
    "sts-b": ("STS-B", 8.0, 3e-4),
}
TEACHER_STEPS, TRANSFER_STEPS, DISTILLATION_STEPS = 14_000, 4_000, 6_000  # at --scale 1
LENGTH = 64  # tokens of a task's texts
HELD_OUT = 40  # batches of 32
LIBRARIES = {"float32": ("plain", "float32"), "int8": ("plain", "int8"), "int8, trained for it": ("aware", "int8")}
"""Title to the fine-tuned model that is compiled, and its precision."""


@dataclass
class Step:
    """cpu_s: processor time of all its attempts; metrics: quality, from 0 to 1 but for mlm (nats)."""

    name: str
    cpu_s: float = 0.0
    metrics: dict[str, float] | None = None


class Run:
    """Does each step once, however often the program is started."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work.absolute()
        self.file = self.work / "steps.json"
        self.steps = {s["name"]: Step(**s) for s in json.loads(self.file.read_text())} if self.file.exists() else {}

    def step(self, name: str, command: list[str], judge: Callable[[], dict[str, float]]) -> None:
        step = self.steps.setdefault(name, Step(name))
        if step.metrics is not None:
            return
        print(f"{name}: pocketbert {' '.join(command)}", file=sys.stderr, flush=True)
        before = os.times()
        try:
            environment = {**os.environ, "PYTHONPATH": sys.path[0]}
            done = subprocess.run(
                [sys.executable, "-m", "pocketbert", *command], stdout=sys.stderr, env=environment, check=False
            )
        finally:
            after = os.times()
            step.cpu_s += sum(after[2:4]) - sum(before[2:4])
            self.save()
        if done.returncode:
            raise PocketBERTError(f"{name} ended with status {done.returncode}; the same command goes on from there")
        step.metrics = judge()
        self.save()

    def save(self) -> None:
        write_whole(self.file, json.dumps([asdict(step) for step in self.steps.values()], indent=1) + "\n")

    def steps_of(self, count: float) -> int:
        return max(1, round(count * self.args.scale))

    def text(self) -> list[str]:
        """Settings of the corpus, the same for teacher and student."""
        values = {
            "data.text": f'["{self.args.text.absolute()}"]', "data.vocabulary": self.work / "vocab.txt",
            "data.folder": self.work / "data", "held_out.text": f'["{self.args.valid.absolute()}"]',
            "held_out.folder": self.work / "valid", "train.threads": self.args.threads,
        }  # fmt: skip
        return settings(values)

    def pretrain(self) -> None:
        output = self.work / "teacher"
        given = settings({"output": output, "train.steps": self.steps_of(TEACHER_STEPS)})
        self.step("teacher", ["model", "pretrain", "configs/pretrain-small.toml", *self.text(), *given],
                  lambda: self.words(output))  # fmt: skip
        output = self.work / "student"
        given = settings({
            "output": output, "teacher": self.work / "teacher/model", "train.steps": self.steps_of(DISTILLATION_STEPS),
            "transfer.transfer_steps": self.steps_of(TRANSFER_STEPS),
        })  # fmt: skip
        self.step("student", ["model", "distill", "configs/distill-small.toml", *self.text(), *given],
                  lambda: self.words(output))  # fmt: skip

    def words(self, output: Path) -> dict[str, float]:
        from model import load_checkpoint
        from model.data import PreTrainingBatches
        from model.recipes.evaluate import evaluate_words

        model = load_checkpoint(output / "model")
        batches = PreTrainingBatches(self.work / "valid", 48, model.config.vocab_size)
        return evaluate_words(model, batches, HELD_OUT, 32)

    def task(self, name: str) -> None:
        folder, epochs, rate = TASKS[name]
        train, dev = (self.args.glue / folder / f"{part}.tsv" for part in ("train", "dev"))
        if f"{name}: one answer" not in self.steps:
            self.steps[f"{name}: one answer"] = Step(f"{name}: one answer", 0.0, one_answer(name, dev))
        for kind, precision in (("plain", "float32"), ("aware", "int8")):
            output = self.work / f"{name}-{kind}"
            given = settings({
                "output": output, "task": name, "model.folder": self.work / "student/model",
                "data.train": train.absolute(), "data.dev": dev.absolute(), "data.sequence_length": LENGTH,
                "epochs": epochs * self.args.scale**0.5, "train.learning_rate": rate, "train.precision": "float32",
                "train.threads": self.args.threads, "quantize.precision": precision,
            })  # fmt: skip
            self.step(f"{name}: {kind}", ["model", "finetune", "configs/finetune-reviews.toml", *given],
                      lambda output=output: json.loads((output / "metrics.json").read_text())["dev"])  # type: ignore[misc]  # fmt: skip
        for title, (kind, precision) in LIBRARIES.items():
            output = self.work / f"{name}-{kind}-{precision}"
            given = ["--target", "host", "--precision", precision, "--verify", "--out", str(output)]
            given += ["--seq-len", str(LENGTH)]
            self.step(f"{name}: {title}", ["compile", str(self.work / f"{name}-{kind}/model"), *given],
                      lambda output=output: library_metrics(name, output, dev))  # type: ignore[misc]  # fmt: skip


def settings(values: dict[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def one_answer(name: str, dev: Path) -> dict[str, float]:
    """What the most frequent label gets."""
    from model.finetune import glue
    from model.finetune.metrics import compute

    labels = [example.label or 0.0 for example in glue.read_examples(glue.TASKS[name], dev)]
    return compute(glue.TASKS[name].metrics, labels, [statistics.mode(labels)] * len(labels))


def library_metrics(name: str, folder: Path, dev: Path) -> dict[str, float]:
    """Of the library's own answers, from text; and its size in MB."""
    import compile
    from model.finetune import glue
    from model.finetune.metrics import compute

    task = glue.TASKS[name]
    examples, answers = glue.read_examples(task, dev), []
    with compile.load(folder) as library:
        for example in examples:
            (scores,) = library.run_text(example.first, example.second).values()
            answers.append(float(scores.ravel().argmax() if task.labels else scores.ravel()[0]))
        size = (folder / library.manifest.library).stat().st_size / 1e6
    return compute(task.metrics, [e.label or 0.0 for e in examples], answers) | {"mb": size}


def latencies(run: Run) -> None:
    """ms of each library for LENGTH tokens on one thread, beside its metrics."""
    from compile.running.runners.local import LocalRunner

    with LocalRunner() as runner:
        for name in run.args.tasks:
            for title, (kind, precision) in LIBRARIES.items():
                step = run.steps[f"{name}: {title}"]
                if step.metrics is not None and "ms" not in step.metrics:
                    folder = run.work / f"{name}-{kind}-{precision}"
                    step.metrics["ms"] = runner.measure(folder, threads=1, runs=run.args.runs).median_ms
                    run.save()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    args.work.mkdir(parents=True, exist_ok=True)
    run = Run(args)
    if not args.latency:
        run.pretrain()
        for name in args.tasks:
            run.task(name)
    else:
        latencies(run)
    return {"scale": args.scale, "steps": [asdict(step) for step in run.steps.values()]}


def show(result: dict[str, Any]) -> None:
    steps = [step for step in result["steps"] if step["metrics"] is not None]
    print(f"scale {result['scale']:g}, {sum(step['cpu_s'] for step in steps) / 60:.1f} minutes of processor time\n")
    print(f"{'step':32}{'cpu s':>8}  quality")
    for step in steps:
        print(
            f"{step['name']:32}{step['cpu_s']:8.0f}  " + ", ".join(f"{k} {v:.4g}" for k, v in step["metrics"].items())
        )


def main() -> int:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--work", type=Path, default=Path("runs/teacher-to-library"), metavar="FOLDER")
    add("--text", type=Path, default=SHARED / "text/wikipedia-en.train.txt", metavar="FILE")
    add("--valid", type=Path, default=SHARED / "text/wikipedia-en.valid.txt", metavar="FILE")
    add("--glue", type=Path, default=SHARED / "glue", metavar="FOLDER")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=f"default: {' '.join(TASKS)}")
    add(
        "--scale",
        type=number(float, 1e-6, 100),
        default=1.0,
        metavar="X",
        help="× the steps of all trainings (default: 1)",
    )
    add("--threads", type=number(int, 1, 64), default=os.cpu_count(), metavar="N", help="of a training (default: all)")
    add("--latency", action="store_true", help="measure the libraries that are there, and nothing else")
    add("--runs", type=RUNS, default=200, metavar="N", help="of each library for its latency (default: 200)")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
