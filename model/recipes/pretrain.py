"""`pretrain`: a teacher, or a bare student, by masked words and next sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..settings import TrainSettings
from .sources import ModelSource, TextData


@dataclass(frozen=True)
class PretrainConfig:
    """configs/pretrain-*.toml"""

    output: str
    model: ModelSource
    data: TextData
    train: TrainSettings = field(default_factory=TrainSettings)


def pretrain(config: PretrainConfig) -> Path:
    """Train and return the folder of the model."""
    from ..distill import PreTraining
    from ..distill.strategies import pretraining
    from ..processes import join, leave
    from ..trainer import Trainer
    from .corpus import check_vocabulary, keep_vocabulary, record_trained_positions, run_batches

    train = config.train
    processes = join(train.device)
    try:
        model = config.model.load("mlm", train.seed)
        stages = pretraining(model.config.num_hidden_layers, train.steps)
        batches = run_batches(config.data, model, stages, train, processes)
        record_trained_positions(model, config.model, config.data)
        vocabulary = Path(config.data.folder) / "vocab.txt"
        check_vocabulary(config.model.folder, vocabulary)
        task = lambda model, stage: PreTraining(model)  # noqa: E731
        trained = Trainer(model, task, stages, batches, Path(config.output), train, processes).fit()
        if processes.first:
            keep_vocabulary(trained, vocabulary)
        return trained
    finally:
        leave()
