"""`pretrain`: a teacher, or a bare student, by masked words and next sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..settings import TrainSettings
from .sources import HeldOut, ModelSource, TextData


@dataclass(frozen=True)
class PretrainConfig:
    """configs/pretrain-*.toml"""

    output: str
    model: ModelSource
    data: TextData
    train: TrainSettings = field(default_factory=TrainSettings)
    held_out: HeldOut | None = None  # text whose loss is logged at every checkpoint


def pretrain(config: PretrainConfig) -> Path:
    """Train and return the folder of the model."""
    from ..data import vocabulary_in
    from ..distill import PreTraining
    from ..distill.strategies import pretraining
    from ..processes import join, leave
    from ..trainer import Trainer
    from .corpus import check_vocabulary, judge, keep_vocabulary, record_trained_positions, run_batches

    train = config.train
    processes = join(train.device)
    try:
        model = config.model.load("mlm", train.seed)
        stages = pretraining(model.config.num_hidden_layers, train.steps)
        batches = run_batches(config.data, model, stages, train, processes)
        record_trained_positions(model, config.model, config.data)
        vocabulary = vocabulary_in(Path(config.data.folder))
        check_vocabulary(config.model.folder, vocabulary)
        task = lambda model, stage: PreTraining(model)  # noqa: E731
        held_out = judge(config.held_out, vocabulary, model.config.vocab_size, processes)
        output = Path(config.output)
        trained = Trainer(model, task, stages, batches, output, train, processes, held_out=held_out).fit()
        if processes.first:
            keep_vocabulary(trained, vocabulary, model.config.longest)
        return trained
    finally:
        leave()
