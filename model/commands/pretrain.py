"""`pretrain`: a teacher, or a bare student, by masked words and next sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..settings import TrainSettings
from .config import ModelSource, TextData


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
    from .data import pretraining_batches

    train = config.train
    processes = join(train.device)
    try:
        model = config.model.load("mlm", train.seed)
        batches = pretraining_batches(config.data, model.config.vocab_size, train.seed, processes)
        stages = pretraining(model.config.num_hidden_layers, train.steps)
        task = lambda model, stage: PreTraining(model)  # noqa: E731
        return Trainer(model, task, stages, batches, Path(config.output), train, processes).fit()
    finally:
        leave()
