"""What a folder's model is for: its task, the labels, how a text becomes a vector; for the runtime and the manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compile.errors import CompileError
from compile.text.side import Setting
from pocketbert.reading import read_json

Kind = Literal["classify", "entities", "fill", "embed", "answer"]
Activation = Literal["softmax", "sigmoid", "none"]
KINDS: dict[str, Kind] = {
    "sequence-classification": "classify",
    "token-classification": "entities",
    "question-answering": "answer",
    "mlm": "fill",
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "entities",
    "ForQuestionAnswering": "answer",
    "ForMaskedLM": "fill",
    "ForPreTraining": "fill",
}
OUTPUTS = {"classify": ("logits",), "entities": ("logits",), "fill": ("prediction_logits", "logits")}
OUTPUTS |= {"embed": ("sentence_embedding", "last_hidden_state"), "answer": ("start_logits",)}
POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
MOST_OUTPUTS = 8


@dataclass(frozen=True)
class Task:
    """labels: by their numbers; activation: of logits to probabilities; pooling: how tokens' vectors become the text's;
    None where the model itself does that; normalize: whether that gets length 1; settings: who says so of each."""

    kind: Kind
    labels: tuple[str, ...] = ()
    activation: Activation = "softmax"
    pooling: str | None = None
    normalize: bool = False
    settings: tuple[Setting, ...] = field(default=(), compare=False)


def settings_of(**said: tuple[Any, str]) -> tuple[Setting, ...]:
    """Names with their values and who says so."""
    return tuple(Setting(name, json.dumps(value), source) for name, (value, source) in said.items())


def read_task(folder: Path, head: str | None) -> Task | None:
    """What config.json and, of a sentence-transformers folder, modules.json say; None where that is no task of ours.

    head: what was asked for in place of the checkpoint's own. Raises CompileError naming the file that is wrong.
    """
    if (folder / "modules.json").exists() and head in (None, "none"):
        task = _read_embedding(folder)
        return None if head and task and task.pooling is None else task
    config = _object(folder / "config.json")
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    # What transformers has no class for.
    ours = config.get("head") if config.get("model_type") == "pocketbert" else None
    kind = KINDS.get(head or (ours if isinstance(ours, str) else "For" + architecture.partition("For")[2]))
    if kind is None:
        return None
    labels = _labels(config, folder) if kind in ("classify", "entities") else ()
    problem = config.get("problem_type")
    activation: Activation = "softmax"
    if kind == "classify" and problem == "regression":
        activation = "none"
    elif kind == "classify" and (problem == "multi_label_classification" or len(labels) == 1):
        activation = "sigmoid"
    said: dict[str, tuple[Any, str]] = {
        "task": (kind, "--head" if head else f"config.json {'head' if ours else 'architectures'}")
    }
    if labels:
        named = "config.json id2label" if config.get("id2label") is not None else "transformers' default"
        said["labels"] = len(labels), named
        said["activation"] = activation, "transformers' default" if problem is None else "config.json problem_type"
    return Task(kind, labels, activation, settings=settings_of(**said))


def stated_task(kind: str | None, head: str | None, labels: Sequence[str] | None) -> Task | None:
    """The task of a preset or an .onnx file, by what was asked for: `kind`, or else what `head` is for.

    labels: by their numbers; a preset's random head has LABEL_0 and LABEL_1. Raises CompileError.
    """
    by_name: dict[str, Kind] = {**{str(one): one for one in KINDS.values()}, "embed": "embed"}
    stated = by_name.get(kind) if kind is not None else KINDS.get(head or "")
    if kind is not None and stated is None:
        raise CompileError(f"--task {kind}: choose one of {', '.join(OUTPUTS)}")
    named = stated in ("classify", "entities")
    if labels is not None and not named:
        raise CompileError("--labels name what a model classifies: give --task classify or entities as well")
    if labels is not None and (len(set(labels)) < len(labels) or not all(map(_is_name, labels)) or not all(labels)):
        raise CompileError(f"--labels {','.join(labels)!r}: give each label once, in the order of the logits")
    if named and labels is None:
        if head is None:
            raise CompileError(f"--task {stated}: name the logits with --labels, as in bad,good")
        labels = ("LABEL_0", "LABEL_1")
    if stated is None:
        return None
    activation: Activation = "sigmoid" if stated == "classify" and len(labels or ()) == 1 else "softmax"
    said = settings_of(task=(stated, "--head" if kind is None else "--task"))
    return Task(stated, tuple(labels or ()), activation, "mean" if stated == "embed" else None, settings=said)


def _is_name(label: object) -> bool:
    """Whether a library can hold it: as UTF-8, which a NUL ends."""
    return isinstance(label, str) and label.encode(errors="ignore").partition(b"\0")[0].decode() == label


def _labels(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """By number, as id2label has them; LABEL_0 and so on where it is silent."""
    given = config.get("id2label")
    if given is None:
        count = config.get("num_labels", 2)
        if type(count) is not int or not 0 < count <= 1 << 16:
            raise CompileError(f"{folder / 'config.json'}: num_labels is {count!r}: it must be a number of labels")
        return tuple(f"LABEL_{number}" for number in range(count))
    if not isinstance(given, dict) or sorted(given) != sorted(map(str, range(len(given)))):
        raise CompileError(f"{folder / 'config.json'}: id2label must name the labels from 0 on, each once")
    labels = tuple(given[str(number)] for number in range(len(given)))
    for label in labels:
        if not _is_name(label):
            raise CompileError(f"{folder / 'config.json'}: id2label: {label!r} is no name of a label")
    return labels


def _read_embedding(folder: Path) -> Task | None:
    """Of modules.json: a transformer, pooling, perhaps a normalization; the model itself has whatever else there is."""
    modules = read_json(folder / "modules.json", CompileError)
    where = f"{folder / 'modules.json'}"
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CompileError(f"{where} is not a list of modules")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if kinds == ["Transformer"]:
        return None
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return Task("embed", settings=settings_of(task=("embed", "modules.json")))
    path = str(modules[1].get("path"))
    if Path(path).name != path:
        raise CompileError(f"{where}: path {path!r} is not a folder in it")
    config = _object(folder / path / "config.json")
    modes = [name for key, name in POOLING.items() if config.get(key) is True]
    unknown = [
        key for key, value in config.items() if key.startswith("pooling_mode") and value is True and key not in POOLING
    ]
    if isinstance(mode := config.get("pooling_mode"), str):
        modes = [mode.removesuffix("token").removesuffix("_tokens")]
        modes = [name for name in modes if name in POOLING.values()]
    if len(modes) != 1 or unknown:
        return Task("embed", settings=settings_of(task=("embed", "modules.json")))
    normalize = kinds[-1] == "Normalize"
    said = settings_of(
        task=("embed", "modules.json"),
        pooling=(modes[0], f"{path}/config.json"),
        normalized=(normalize, "modules.json"),
    )
    return Task("embed", pooling=modes[0], normalize=normalize, settings=said)


def task_defines(
    task: Task | None, outputs: Sequence[tuple[str, tuple[int, ...]]], mask: int | None
) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Constants and tables for the runtime. outputs: names and shapes; mask: the id that `fill` looks for.

    Raises CompileError where the model does not have what the task reads.
    """
    arrays: dict[str, NDArray[Any]] = {"pb_label_offsets": np.zeros(1, "<u4"), "pb_label_text": np.zeros(1, np.uint8)}
    if task is None:
        return dict(NO_TASK), arrays
    names = [name for name, _ in outputs]
    output = next((names.index(name) for name in OUTPUTS[task.kind] if name in names), None)
    if output is None or len(outputs) > MOST_OUTPUTS:
        raise CompileError(
            f"{task.kind}: the model has no output {' or '.join(OUTPUTS[task.kind])}: build with --no-text"
        )
    shape = outputs[output][1]
    if task.labels and shape[-1] != len(task.labels):
        raise CompileError(
            f"{task.kind}: {len(task.labels)} labels in config.json for {shape[-1]} logits: correct id2label"
        )
    if task.kind == "fill" and mask is None:
        raise CompileError("fill: the tokenizer has no mask piece: build with --no-text")
    if task.kind == "answer" and "end_logits" not in names:
        raise CompileError("answer: the model has no output end_logits: build with --no-text")
    if task.labels:
        encoded = [label.encode() + b"\0" for label in task.labels]
        arrays["pb_label_offsets"] = np.cumsum([0, *map(len, encoded[:-1])]).astype("<u4")
        arrays["pb_label_text"] = np.frombuffer(b"".join(encoded), np.uint8)
    activation = {"softmax": "PB_SOFTMAX", "sigmoid": "PB_SIGMOID", "none": "PB_NO_ACTIVATION"}[task.activation]
    return {
        "PB_TASK": f"POCKETBERT_{task.kind.upper()}",
        "PB_TASK_OUTPUT": str(output),
        "PB_END_OUTPUT": str(names.index("end_logits") if task.kind == "answer" else output),
        "PB_LABELS": str(len(task.labels)),
        "PB_ACTIVATION": activation,
        "PB_POOLING": f"PB_POOL_{(task.pooling or 'mean').upper()}",
        "PB_UNIT_VECTORS": str(int(task.normalize)),
        "PB_MASK": str(-1 if mask is None else mask),
    }, arrays


NO_TASK = {
    "PB_TASK": "POCKETBERT_NO_TASK",
    "PB_TASK_OUTPUT": "0",
    "PB_END_OUTPUT": "0",
    "PB_LABELS": "0",
    "PB_ACTIVATION": "PB_SOFTMAX",
    "PB_POOLING": "PB_POOL_MEAN",
    "PB_UNIT_VECTORS": "0",
    "PB_MASK": "-1",
}


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path, CompileError)
    if not isinstance(value, dict):
        raise CompileError(f"{path} is not a JSON object")
    return value
