"""GLUE's eight tasks as data: the columns of their original TSV files, their labels and their metrics."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.text import lines
from ..errors import ModelError


@dataclass(frozen=True)
class GlueTask:
    """One task. `columns` are names in the header, or numbers where the file has none."""

    name: str
    columns: tuple[str | int, ...]  # of the sentence, or both
    label: str | int
    labels: tuple[str, ...]  # empty: a score from 0 to 5 (regression)
    metrics: tuple[str, ...]

    @property
    def has_header(self) -> bool:
        return isinstance(self.label, str)


@dataclass(frozen=True)
class Example:
    """A row: one sentence or two, and the label's number or the score; None where the file has none."""

    first: str
    second: str | None
    label: float | None
    index: str


BINARY, ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")
TASKS = {
    task.name: task
    for task in (
        GlueTask("cola", (3,), 1, BINARY, ("matthews",)),
        GlueTask("sst-2", ("sentence",), "label", BINARY, ("accuracy",)),
        GlueTask("mrpc", ("#1 String", "#2 String"), "Quality", BINARY, ("accuracy", "f1")),
        GlueTask("sts-b", ("sentence1", "sentence2"), "score", (), ("pearson", "spearman")),
        GlueTask("qqp", ("question1", "question2"), "is_duplicate", BINARY, ("accuracy", "f1")),
        GlueTask(
            "mnli", ("sentence1", "sentence2"), "gold_label", ("contradiction", "entailment", "neutral"), ("accuracy",)
        ),
        GlueTask("qnli", ("question", "sentence"), "label", ENTAILMENT, ("accuracy",)),
        GlueTask("rte", ("sentence1", "sentence2"), "label", ENTAILMENT, ("accuracy",)),
    )
}

SUBMITTED = {name: (f"{name.upper()}.tsv",) for name in TASKS} | {
    "cola": ("CoLA.tsv",),
    "mnli": ("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"),
}
"""The files that the GLUE server takes of each task: of the test set, the mismatched one, the diagnostic one."""


def find_task(name: str, others: tuple[str, ...] = ()) -> GlueTask:
    if name not in TASKS:
        near = difflib.get_close_matches(name.lower(), [*TASKS, *others], 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join([*TASKS, *others])}"
        raise ModelError(f"there is no task {name!r}: {hint}")
    return TASKS[name]


def read_examples(task: GlueTask, path: Path, labelled: bool = True) -> list[Example]:
    """The rows of a train, dev or (not labelled) test file.

    Raises `ModelError` with file and line for a row that lacks a column or has a label that the task does not know.
    """
    rows = _rows(path)
    columns: tuple[str | int, ...] = (*task.columns, *((task.label,) if labelled else ()))
    unlabelled_cola = task.name == "cola" and not labelled  # the one test file with a header where train has none
    if unlabelled_cola:
        columns = ("sentence",)
    if task.has_header or unlabelled_cola:
        header = next(rows, (1, []))[1]
        if missing := [name for name in columns if name not in header]:
            raise ModelError(f"{path}:1: no column {missing[0]!r}: is this the {task.name} file?")
        places = [header.index(str(name)) for name in columns]
        index = header.index("index") if "index" in header else None
        width = len(header)
    else:
        places, index, width = [int(name) for name in columns], None, max(int(name) for name in columns) + 1
    examples: list[Example] = []
    for number, row in rows:
        if len(row) < width:
            raise ModelError(f"{path}:{number}: {len(row)} columns, not {width}: the row is cut short")
        values = [row[place] for place in places]
        label = _label(task, values.pop(), path, number) if labelled else None
        name = row[index] if index is not None else str(len(examples))
        examples.append(Example(values[0], values[1] if len(values) > 1 else None, label, name))
    if not examples:
        raise ModelError(f"{path} has no rows")
    return examples


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and columns; quotes are letters like any other in these files."""
    for number, line in enumerate(lines(path), 1):
        if line.strip():
            yield number, line.rstrip("\r\n").split("\t")


def _label(task: GlueTask, text: str, path: Path, number: int) -> float:
    if task.labels:
        if text not in task.labels:
            raise ModelError(f"{path}:{number}: label {text!r}: {task.name} has {', '.join(task.labels)}")
        return task.labels.index(text)
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not 0 <= score <= 5:
        raise ModelError(f"{path}:{number}: score {text!r}: it must be a number from 0 to 5")
    return score


def write_predictions(task: GlueTask, examples: list[Example], predicted: list[float], path: Path) -> Path:
    """The format of the GLUE server: a header, then index and label (or score) a line."""
    from pocketbert.files import written_whole

    names = [task.labels[int(p)] if task.labels else f"{min(5.0, max(0.0, p)):.3f}" for p in predicted]
    text = "".join(f"{e.index}\t{name}\n" for e, name in zip(examples, names, strict=True))
    with written_whole(path, ModelError) as file:
        file.write(f"index\tprediction\n{text}".encode())
    return path


def read_predictions(task: GlueTask, path: Path) -> dict[str, float]:
    """Index to the label's number or the score; raises `ModelError` with file and line."""
    rows = _rows(path)
    if next(rows, (1, []))[1] != ["index", "prediction"]:
        raise ModelError(f"{path}:1: predictions begin with the header index<TAB>prediction")
    predictions: dict[str, float] = {}
    for number, row in rows:
        if len(row) != 2:
            raise ModelError(f"{path}:{number}: {len(row)} columns, not 2: index<TAB>prediction")
        if row[0] in predictions:
            raise ModelError(f"{path}:{number}: index {row[0]} was predicted before")
        predictions[row[0]] = _label(task, row[1], path, number)
    return predictions


def score_predictions(task: GlueTask, data: Path, path: Path) -> dict[str, float]:
    """The task's metrics of a predictions file; raises `ModelError` where rows are missing or too many."""
    from .metrics import compute

    examples, predictions = read_examples(task, data), read_predictions(task, path)
    wanted = [example.index for example in examples]
    if len(set(wanted)) != len(wanted):  # an index that does not identify rows: count them instead
        wanted = [str(i) for i in range(len(examples))]
    if missing := [index for index in wanted if index not in predictions]:
        raise ModelError(f"{path}: no prediction for index {missing[0]} ({len(missing)} of {len(wanted)} are missing)")
    if len(predictions) > len(wanted):
        unknown = next(index for index in predictions if index not in set(wanted))
        raise ModelError(f"{path}: index {unknown} is not in {data}")
    labels = [example.label for example in examples if example.label is not None]
    return compute(task.metrics, labels, [predictions[index] for index in wanted])
