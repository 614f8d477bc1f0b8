"""`finetune`: on one task, once or over the papers' search space."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from .task import TaskData, load_model, task_tokenizer, with_vocabulary

if TYPE_CHECKING:
    from ..heads import Model


@dataclass(frozen=True)
class Sweep:
    """Every combination is tried, and the best on the development set wins. The papers': see configs/."""

    batch_size: tuple[int, ...] = ()
    learning_rate: tuple[float, ...] = ()
    epochs: tuple[float, ...] = ()


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
    quantize: Quantize = field(default_factory=Quantize)  # train and evaluate as int8 kernels compute


def finetune(config: FinetuneConfig) -> str:
    """Train, evaluate, write predictions and metrics.json beside the model; returns what to print."""
    from ..processes import leave

    best: tuple[float, Path, dict[str, Any]] | None = None
    try:
        for run in runs(config):
            metrics = run_once(run)
            if metrics and (best is None or main_metric(metrics) > best[0]):
                best = main_metric(metrics), Path(run.output), metrics
    finally:
        leave()
    return f"{best[1] / 'model'}: {json.dumps(best[2])}" if best else ""


def runs(config: FinetuneConfig) -> Iterator[FinetuneConfig]:
    """The configuration itself, or each one of its sweep, in a folder of its own."""
    sweep, train = config.sweep, config.train
    if not (sweep.batch_size or sweep.learning_rate or sweep.epochs):
        yield config
        return
    axes = sweep.batch_size or (train.batch_size,), sweep.learning_rate or (train.learning_rate,)
    for size, rate, epochs in product(*axes, sweep.epochs or (config.epochs,)):
        output = f"{config.output}/batch-{size}-rate-{rate:g}-epochs-{epochs:g}"
        changed = replace(train, batch_size=size, learning_rate=rate)
        yield replace(config, output=output, train=changed, epochs=epochs, sweep=Sweep())


def main_metric(metrics: dict[str, Any]) -> float:
    """What a sweep maximises: F1 of SQuAD, else the mean of the task's metrics."""
    flat = metrics.get("dev", metrics)
    return float(flat["f1"]) if "total" in flat or "exact_match" in flat else sum(flat.values()) / len(flat)


def run_once(config: FinetuneConfig) -> dict[str, Any]:
    """Metrics of one run, trained unless it was; empty on all processes but the first."""
    from ..checkpoint import load_checkpoint
    from ..distill.strategies import pretraining
    from ..finetune.losses import Classification, Spans
    from ..processes import join
    from ..trainer import Trainer
    from .corpus import keep_vocabulary

    output, data, train = Path(config.output), with_vocabulary(config.data, config.model), config.train
    config = replace(config, data=data)
    processes = join(train.device)
    model = load_model(config.model, config.task, train.seed)
    for name in ("train", "dev"):
        if not Path(getattr(data, name)).is_file():
            raise ModelError(f"data.{name} is {getattr(data, name)!r}: name the task's own file")
    if processes.first:
        claim(output, made_from(config))
    processes.wait()
    if (output / "metrics.json").exists():  # a sweep that was interrupted
        return read_json(output / "metrics.json", ModelError)
    batches = training_batches(config, model)
    steps = round(config.epochs * len(batches.rows) / (train.batch_size * train.accumulate * processes.world))
    stages = pretraining(model.config.num_hidden_layers, max(1, steps))
    kind = Spans if config.task in VERSIONS else Classification
    task = lambda model, stage: kind(model)  # noqa: E731
    with config.quantize.apply(model):
        folder = Trainer(model, task, stages, batches, output, train, processes).fit()
    if not processes.first:
        return {}
    keep_vocabulary(folder, Path(data.vocabulary))
    whole = load_checkpoint(folder).to(processes.device)
    with config.quantize.apply(whole):
        return evaluate_task(whole, config.task, data, output, 2 * train.batch_size)


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
    if config.model.folder:
        files = [p for p in Path(config.model.folder).iterdir() if p.suffix in (".json", ".safetensors", ".bin")]
        settings["model.folder"] = {file.name: digest(file, ModelError) for file in sorted(files)}
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


def training_batches(config: FinetuneConfig, model: Model) -> Any:
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
        rows = encode_examples(tokenizer, read_examples(TASKS[config.task], Path(data.train)), length)
    return RowBatches(rows, tokenizer, length, config.train.seed)
