"""What int8 costs students that were fine-tuned on GLUE and SQuAD, beside other systems' int8: the papers' Table 6.

A folder's encoder is fine-tuned on every task with several seeds (model.recipes.finetune). Then each system answers the
same part of the development set, an input at a time: float32 is the exported file in ONNX Runtime; "ours" the library
itself; LiteRT's works at the full length, padded. A difference to float32 is the mean over the seeds; its 95 % interval
comes from drawing the examples again (the same for all seeds and both sides).

Whatever was trained, built or answered is kept in --work: the same command goes on from there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.finetuning import TASKS, Task
from benchmarks.quantization import RESAMPLES, peer

METRICS = {"sst-2": "accuracy", "mrpc": "F1", "rte": "accuracy", "sts-b": "Spearman", "squad-v1.1": "F1"}
EPOCHS = {"sst-2": 0.15, "mrpc": 1.5, "rte": 1.5, "sts-b": 1.0, "squad-v1.1": 0.5}
LENGTHS = {"sst-2": 64, "mrpc": 96, "rte": 96, "sts-b": 64, "squad-v1.1": 160}  # tokens, in training and in answering
STRIDE = 96
RATE, BATCH = 1e-4, 32
OURS, AWARE = "ours, int8", "ours, trained for int8"
SYSTEMS = ("float32", OURS, AWARE, "ONNX Runtime, dynamic int8", "LiteRT, dynamic int8")
Inputs = dict[str, np.ndarray]
Answer = Callable[[Inputs], np.ndarray]


@dataclass(frozen=True)
class Student:
    """One task and seed. start: the folder that is fine-tuned; work: all students' folder; examples: of the dev set.

    aware: whether it is trained for int8.
    """

    task: Task
    seed: int
    start: Path
    data: Path
    work: Path
    examples: int
    aware: bool = False

    @property
    def folder(self) -> Path:
        return self.work / f"{self.task.name}-{self.seed}{'-int8' * self.aware}"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def train(self) -> None:
        """Unless it was."""
        from model.recipes.finetune import FinetuneConfig, TaskData, run_once
        from model.recipes.quantization import Quantize
        from model.recipes.sources import ModelSource
        from model.settings import TrainSettings

        name = self.task.name
        data = TaskData(
            vocabulary=str(self.start / "vocab.txt"), train=str(self.data / self.task.train),
            dev=str(self._dev_part()), sequence_length=LENGTHS[name], stride=STRIDE,
        )  # fmt: skip
        settings = TrainSettings(
            optimizer="adamw", learning_rate=RATE, batch_size=BATCH, seed=self.seed, checkpoint_every=100, keep=1,
            log_every=20, precision="bfloat16",
        )  # fmt: skip
        source, quantize = ModelSource(folder=str(self.start)), Quantize("int8" if self.aware else "float32")
        run_once(FinetuneConfig(str(self.folder), name, source, data, EPOCHS[name], settings, quantize=quantize))

    def _dev_part(self) -> Path:
        """What training reports; SQuAD's first articles alone."""
        whole = self.data / self.task.dev
        if whole.suffix != ".json":
            return whole
        part = self.work / "squad-dev.json"
        if not part.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({"data": json.loads(whole.read_text())["data"][:3]}))
        return part

    @cached_property
    def dev(self) -> Dev:
        return Dev(self.task, self.data / self.task.dev, self.model / "vocab.txt", self.examples)

    def answers(self, system: str, python: str | None) -> np.ndarray | None:
        """A row an input, of logits; of an answer's first and last token [length, 2]. None: the system is not here."""
        file = self.folder / f"{system.replace(', ', '-').replace(' ', '-')}-{self.examples}.npy"
        if not file.exists():
            if system.startswith("LiteRT"):
                found = litert(self, python) if python else None
            else:
                answer = {"float32": float32, "ours": ours, "ONNX Runtime": dynamic}[system.partition(",")[0]](self)
                found = np.stack([padded(answer(inputs), LENGTHS[self.task.name]) for inputs in self.dev.inputs()])
            if found is None:
                return None
            np.save(file, found)
        return np.asarray(np.load(file))


class Dev:
    """A part of a development set, evenly spread over it, as inputs and as what is scored."""

    def __init__(self, task: Task, file: Path, vocabulary: Path, count: int) -> None:
        from model.data import read_vocabulary
        from model.finetune import glue, squad
        from model.finetune.features import RowBatches, encode_examples
        from model.finetune.spans import SpanSettings, windows

        self.task, self.squad = task, task.name in squad.VERSIONS
        tokenizer, length = read_vocabulary(vocabulary), LENGTHS[task.name]
        whole: Sequence[Any] = (
            squad.read_questions(file) if self.squad else glue.read_examples(glue.TASKS[task.name], file)
        )
        self.examples = [whole[i] for i in np.linspace(0, len(whole) - 1, min(count, len(whole))).astype(int)]
        self.settings = SpanSettings(stride=STRIDE)
        if self.squad:
            self.windows = windows(tokenizer, self.examples, length, self.settings)
            rows = [window.row for window in self.windows]
        else:
            rows = encode_examples(tokenizer, self.examples, length)
        self.batches = RowBatches(rows, tokenizer, length)

    def inputs(self) -> Iterator[Inputs]:
        for batch in self.batches.in_order(1):
            yield {name: batch[name].numpy() for name in ("input_ids", "attention_mask", "token_type_ids")}

    def scored(self, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is predicted and what is right, an example each; for SQuAD each question's F1 stands for both."""
        if not self.squad:
            labels = np.array([example.label for example in self.examples])
            return (answers[:, 0] if answers.shape[1] == 1 else answers.argmax(1)), labels
        from model.finetune import squad
        from model.finetune.spans import best_answers, final_answers

        logits = [(row[:, 0], row[:, 1]) for row in answers]
        ranked, nothing = best_answers(self.examples, self.windows, logits, self.settings)
        texts, _ = final_answers(self.examples, ranked, nothing, "1.1", self.settings)
        f1 = np.array([one.f1 for one in squad.score_each(self.examples, texts, "1.1")])
        return f1, f1

    def metric(self, predicted: np.ndarray, labels: np.ndarray) -> float:
        """In points: 0 to 100."""
        from scipy.stats import spearmanr

        if self.squad:
            return 100 * float(predicted.mean())
        if self.task.name == "sts-b":
            return 100 * float(spearmanr(predicted, labels).statistic)
        if self.task.name != "mrpc":
            return 100 * float((predicted == labels).mean())
        both = (predicted * labels).sum()
        return 200 * float(both / (predicted.sum() + labels.sum()))


def padded(logits: np.ndarray, length: int) -> np.ndarray:
    """Spans [tokens, 2] at their full length."""
    return np.pad(logits, ((0, length - len(logits)), (0, 0))) if logits.ndim == 2 else logits


def together(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Of one input: logits [labels], or [tokens, 2] of an answer's first and last token."""
    return outputs[0][0] if len(outputs) == 1 else np.stack([output[0] for output in outputs], -1)


def exported(student: Student) -> Path:
    import model as core

    path = student.folder / "model.onnx"
    return path if path.exists() else core.export(core.load_checkpoint(student.model), path, seq_len="dynamic")


def session(path: Path) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: together(opened.run(None, inputs))


def float32(student: Student) -> Answer:
    return session(exported(student))


def dynamic(student: Student) -> Answer:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = student.folder / "int8.onnx"
    if not small.exists():
        quantize_dynamic(exported(student), small, weight_type=QuantType.QInt8, per_channel=True)
    return session(small)


def ours(student: Student) -> Answer:
    from compile import build, load

    folder = student.folder / "library"
    if not folder.exists():
        build(
            student.model, target="host", seq_len=[16, LENGTHS[student.task.name]], out=folder, precision="int8",
            vocab=student.model / "vocab.txt", threads=1,
        )  # fmt: skip
    library = load(folder, threads=1)
    return lambda inputs: together(list(library.run(inputs).values()))


def litert(student: Student, python: str) -> np.ndarray | None:
    import torch

    import model as core

    class Joined(torch.nn.Module):
        """One output, for that is what a peer answers."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = core.load_checkpoint(student.model).eval()

        def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
            outputs = list(self.inner(*arguments).values())
            return outputs[0] if len(outputs) == 1 else torch.stack(outputs, -1)

    length, rows = LENGTHS[student.task.name], list(student.dev.inputs())
    wide = {name: np.zeros((len(rows), 1, length), np.int32) for name in rows[0]}
    for i, inputs in enumerate(rows):
        for name, values in inputs.items():
            wide[name][i, :, : values.shape[1]] = values
    np.savez(student.folder / "inputs.npz", **wide)
    arguments = tuple(torch.from_numpy(values[0].astype(np.int64)) for values in wide.values())
    torch.export.save(torch.export.export(Joined(), arguments), student.folder / "exported.pt2")
    if not (converted := peer(python, "convert", "litert_int8", student.folder / "exported.pt2")):
        return None
    file = json.loads(converted)["file"]
    answers = np.load((peer(python, "answer", "litert_int8", file, student.folder / "inputs.npz") or "").strip())
    return np.asarray(answers[:, 0])


def difference(dev: Dev, pairs: Sequence[tuple[Any, Any]]) -> tuple[float, float, float]:
    """(mean over seeds, low, high) in points; pairs: for each seed a system's and float32's predictions and labels."""

    def mean(chosen: np.ndarray | slice) -> float:
        values = [dev.metric(p[chosen], y[chosen]) - dev.metric(q[chosen], y[chosen]) for (p, _), (q, y) in pairs]
        return float(np.mean(values))

    rng, count = np.random.default_rng(0), len(dev.examples)
    low, high = np.percentile([mean(rng.integers(count, size=count)) for _ in range(RESAMPLES)], [2.5, 97.5])
    return mean(slice(None)), float(low), float(high)


def measure(args: Any, start: Path, name: str) -> dict[str, Any]:
    """Every task's row; tasks whose files are not here are left out. All of the first seed come first."""
    tasks = []
    for task in (task for task in TASKS if task.name in args.tasks):
        missing = [file for file in (task.train, task.dev) if not (args.data / file).exists()]
        if missing:
            say(f"{task.name} is left out: {args.data / missing[0]} is not here")
        else:
            tasks.append(task)
    found: dict[Task, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {task: {} for task in tasks}
    devs: dict[Task, Dev] = {}
    for seed in range(1, args.seeds + 1):
        for task in tasks:
            student = Student(task, seed, start, args.data, args.work, args.examples)
            student.train()
            devs[task] = student.dev
            for system in SYSTEMS:
                if system == AWARE:
                    answers = aware_answers(student) if args.train_int8 else None
                else:
                    answers = student.answers(system, args.peer_python)
                if answers is None:
                    say(f"{task.name}, seed {seed}, {system}: absent")
                    continue
                found[task].setdefault(system, []).append(student.dev.scored(answers))
                say(f"{task.name}, seed {seed}, {system}: {student.dev.metric(*found[task][system][-1]):.2f}")
    rows = [row(task, devs[task], found[task]) for task in tasks]
    return {"model": name, "seeds": args.seeds, "students": rows}


def aware_answers(student: Student) -> np.ndarray | None:
    """The library's of a student that was trained for int8 from the same start, on as much."""
    other = replace(student, aware=True)
    other.train()
    return other.answers(OURS, None)


def row(task: Task, dev: Dev, found: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, Any]:
    """One task's: each system's metric of each seed, and what it differs by."""
    cells = {}
    for system, predicted in found.items():
        apart, low, high = difference(dev, list(zip(predicted, found["float32"], strict=True)))
        values = [dev.metric(*one) for one in predicted]
        cells[system] = {"values": values, "difference": apart, "interval": [low, high]}
    return {"task": task.name, "metric": METRICS[task.name], "examples": len(dev.examples), "systems": cells}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show(result: dict[str, Any]) -> None:
    print(f"students of {result['model']}, {result['seeds']} seeds; points, and the difference to float32 with 95 %\n")
    print(f"{'':24}{'examples':>9}" + "".join(f"{system:>30}" for system in SYSTEMS))
    for row in result["students"]:
        line = f"{row['task'] + ', ' + row['metric']:24}{row['examples']:9}"
        for system in SYSTEMS:
            cell = row["systems"].get(system)
            text = "" if cell is None else f"{np.mean(cell['values']):.2f}"
            if cell is not None and system != "float32":
                text += f" {cell['difference']:+.2f} ({cell['interval'][0]:+.2f} to {cell['interval'][1]:+.2f})"
            line += f"{text:>30}"
        print(line)
    print(f"{'mean difference':33}" + "".join(f"{mean_difference(result, system):>30}" for system in SYSTEMS))


def mean_difference(result: dict[str, Any], system: str) -> str:
    cells = [row["systems"].get(system) for row in result["students"]]
    found = [cell["difference"] for cell in cells if cell]
    return f"{np.mean(found):+.2f}" if found and system != "float32" and len(found) == len(cells) else ""
