"""`finetune`: on one task, once or over the papers' search space."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketbert.files import digest, write_whole
from pocketbert.reading import read_json

from ..errors import ModelError
from ..finetune.squad import VERSIONS
from ..settings import FREE, TrainSettings
from .evaluate import evaluate_task
from .quantization import Quantize
from .sources import ModelSource
from .task import TaskData, TaskTeacher, load_model, load_teacher, task_tokenizer, with_vocabulary

if TYPE_CHECKING:
    from ..finetune.teacher import TeacherModel
    from ..heads import Model


@dataclass(frozen=True)
class Sweep:
    """Values to try; the best on the development set wins, and only its weights are kept. The papers': see configs/.

    halving: every batch size and learning rate at the fewest epochs, the best third of them again at no fewer than
        three times as many, and so on to the most (successive halving, Jamieson and Talwalkar 2016); else every
        combination.
    """

    batch_size: tuple[int, ...] = ()
    learning_rate: tuple[float, ...] = ()
    epochs: tuple[float, ...] = ()
    halving: bool = True


@dataclass(frozen=True)
class FinetuneConfig:
    """configs/finetune-*.toml"""

    output: str
    task: str
    model: ModelSource
    data: TaskData
    epochs: float = 3
    train: TrainSettings = field(default_factory=lambda: TrainSettings(optimizer="adamw", learning_rate=5e-5))
    sweep: Sweep = field(default_factory=Sweep)
    teacher: TaskTeacher = field(default_factory=TaskTeacher)
    quantize: Quantize = field(default_factory=Quantize)  # train and evaluate as int8 kernels compute


def finetune(config: FinetuneConfig) -> str:
    """Train, evaluate, write predictions and metrics.json beside the model; returns what to print."""
    from ..processes import leave

    try:
        if config.sweep == Sweep(halving=config.sweep.halving):
            return _result(config, run_once(config))
        return sweep(config)
    finally:
        leave()


def sweep(config: FinetuneConfig) -> str:
    """All runs of a sweep, each in a folder of its own, and sweep.json; returns their table, the best one last."""
    ranked: list[tuple[FinetuneConfig, dict[str, Any]]] = []  # best first
    rungs = _rungs(config)
    total = sum(count for _, count in rungs)
    candidates = list(product(*_axes(config)))
    for epochs, count in rungs:
        tried: list[tuple[FinetuneConfig, dict[str, Any]]] = []
        for size, rate in candidates[:count]:
            run = _of_sweep(config, size, rate, epochs)
            number = len(ranked) + 1
            _say(f"run {number} of {total}: batch size {size}, learning rate {rate:g}, {epochs:g} epochs")
            tried.append((run, run_once(run)))
            ranked = sorted([*ranked, tried[-1]], key=lambda entry: -main_metric(entry[1]))
            for loser, _ in ranked[1:]:
                _forget_weights(Path(loser.output))
        tried.sort(key=lambda entry: -main_metric(entry[1]))
        candidates = [(run.train.batch_size, run.train.learning_rate) for run, _ in tried]
    best, metrics = ranked[0]
    runs = [{"folder": Path(run.output).name, "metric": main_metric(m)} for run, m in ranked]
    write_whole(Path(config.output) / "sweep.json", json.dumps({"runs": runs}, indent=2) + "\n", ModelError)
    rows = [f"{'metric':>8}{'batch':>7}{'rate':>9}{'epochs':>8}"]
    for run, m in reversed(ranked):
        rows.append(f"{main_metric(m):8.4f}{run.train.batch_size:7}{run.train.learning_rate:9.1g}{run.epochs:8g}")
    return "\n".join([*rows, _result(best, metrics)])


def _result(config: FinetuneConfig, metrics: dict[str, Any]) -> str:
    return f"{Path(config.output) / 'model'}: {json.dumps(metrics)}"


def _axes(config: FinetuneConfig) -> tuple[tuple[int, ...], tuple[float, ...]]:
    sweep, train = config.sweep, config.train
    return sweep.batch_size or (train.batch_size,), sweep.learning_rate or (train.learning_rate,)


def _rungs(config: FinetuneConfig) -> list[tuple[float, int]]:
    """Epochs, and how many of the candidates (the best of those before) are trained for so many."""
    sizes, rates = _axes(config)
    epochs, count = sorted(config.sweep.epochs or (config.epochs,)), len(sizes) * len(rates)
    if not config.sweep.halving:
        return [(value, count) for value in epochs]
    rungs = [(epochs[0], count)]
    for value in epochs[1:]:
        if value >= 3 * rungs[-1][0] or value == epochs[-1]:
            rungs.append((value, -(-rungs[-1][1] // 3)))
    return rungs


def _of_sweep(config: FinetuneConfig, size: int, rate: float, epochs: float) -> FinetuneConfig:
    output = f"{config.output}/batch-{size}-rate-{rate:g}-epochs-{epochs:g}"
    changed = replace(config.train, batch_size=size, learning_rate=rate)
    return replace(config, output=output, train=changed, epochs=epochs, sweep=Sweep())


def _say(text: str) -> None:
    from ..processes import is_first

    if is_first():
        print(text, file=sys.stderr, flush=True)


def _forget_weights(output: Path) -> None:
    for name in ("model", "checkpoints"):
        shutil.rmtree(output / name, ignore_errors=True)


def main_metric(metrics: dict[str, Any]) -> float:
    """What a sweep maximises: F1 of SQuAD, else the mean of the task's metrics."""
    flat = metrics.get("dev", metrics)
    return float(flat["f1"]) if "total" in flat or "exact_match" in flat else sum(flat.values()) / len(flat)


def run_once(config: FinetuneConfig) -> dict[str, Any]:
    """Metrics of one run, trained unless it was."""
    from ..checkpoint import load_checkpoint
    from ..distill.strategies import pretraining
    from ..finetune.losses import Classification, Spans, Taught
    from ..processes import join
    from ..trainer import Trainer
    from .corpus import keep_vocabulary

    output, data, train = Path(config.output), with_vocabulary(config.data, config.model), config.train
    config = replace(config, data=data)
    processes = join(train.device)
    model = load_model(config.model, config.task, train.seed)
    teacher = None
    if config.teacher.folder:
        teacher = load_teacher(config.teacher, model, config.task, Path(data.vocabulary)).to(processes.device)
    for name in ("train", "dev"):
        if not Path(getattr(data, name)).is_file():
            raise ModelError(f"data.{name} is {getattr(data, name)!r}: name the task's own file")
    if processes.first:
        claim(output, made_from(config))
    processes.wait()
    if (output / "metrics.json").exists():  # a sweep that was interrupted
        return read_json(output / "metrics.json", ModelError)
    batches = training_batches(config, model, teacher)
    steps = round(config.epochs * len(batches.rows) / (train.batch_size * train.accumulate * processes.world))
    stages = (replace(pretraining(model.config.num_hidden_layers, max(1, steps))[0], name="fine-tuning"),)
    kind = Spans if config.task in VERSIONS else Classification
    task: Callable[[Model, Any], Any] = lambda model, stage: kind(model)  # noqa: E731
    if teacher:
        task = lambda model, stage: Taught(kind(model), teacher, config.teacher.alpha, config.teacher.temperature)  # noqa: E731
    with config.quantize.apply(model):
        folder = Trainer(model, task, stages, batches, output, train, processes).fit()
    if processes.first:
        keep_vocabulary(folder, Path(data.vocabulary), model.config.longest)
        whole = load_checkpoint(folder).to(processes.device)
        with config.quantize.apply(whole):
            evaluate_task(whole, config.task, data, output, 2 * train.batch_size)
    processes.wait()
    return read_json(output / "metrics.json", ModelError)


def made_from(config: FinetuneConfig) -> dict[str, Any]:
    """All that decides a run's results, by the names of its settings; files and folders by their content."""
    sections = {name: value for name, value in asdict(config).items() if name not in ("output", "sweep")}
    settings: dict[str, Any] = {}
    for section, value in sections.items():
        parts = value if isinstance(value, dict) else {"": value}
        settings |= {f"{section}.{name}".rstrip("."): part for name, part in parts.items() if name not in FREE}
    for name, value in settings.items():
        if name.startswith("data.") and isinstance(value, str) and value:
            settings[name] = {"sha256": digest(value, ModelError)}
    for name in ("model.folder", "teacher.folder"):
        if settings[name]:
            files = [p for p in Path(settings[name]).iterdir() if p.suffix in (".json", ".safetensors", ".bin")]
            settings[name] = {file.name: digest(file, ModelError) for file in sorted(files)}
    return json.loads(json.dumps(settings))  # tuples become lists, as they will be read


def claim(folder: Path, made_from: dict[str, Any]) -> None:
    """Keep a run's settings in its folder; raises `ModelError` where the folder holds a run of others."""
    from ..resume import check_same, newest

    path, done = folder / "made-from.json", (folder / "metrics.json").exists()
    if not done and newest(folder, only_path=True) is None:
        write_whole(path, json.dumps(made_from, indent=2) + "\n", ModelError)
    elif path.exists():
        check_same(folder, read_json(path, ModelError), made_from)
    elif done:
        raise ModelError(f"{folder} holds the results of an unknown run: choose another output folder, or remove it")


def training_batches(config: FinetuneConfig, model: Model, teacher: TeacherModel | None) -> Any:
    from ..finetune.features import RowBatches, encode_examples
    from ..finetune.glue import TASKS, read_examples
    from ..finetune.spans import SpanSettings, windows
    from ..finetune.squad import read_questions

    data, length = config.data, config.data.sequence_length
    tokenizer = task_tokenizer(data, model)
    if config.task in VERSIONS:
        settings = SpanSettings(stride=data.stride)
        made = windows(tokenizer, read_questions(Path(data.train)), length, settings, training=True)
        rows = [window.row for window in made]
    else:
        examples = read_examples(TASKS[config.task], Path(data.train))
        rows = encode_examples(tokenizer, examples, length)
        rows = teacher.read(rows, examples) if teacher else rows
    return RowBatches(rows, tokenizer, length, config.train.seed, teacher.pad if teacher else 0)
