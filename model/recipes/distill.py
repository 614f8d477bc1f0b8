"""`distill`: a student from a teacher, by one of the papers' strategies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ModelError
from ..settings import TrainSettings
from .sources import ModelSource, TextData

if TYPE_CHECKING:
    from ..distill import Stage, Weights
    from ..heads import Model


@dataclass(frozen=True)
class Transfer:
    """How knowledge is transferred. The factors are those of `model.distill.Weights`."""

    # none: distillation alone; copied: the same with the teacher's embedding and head to begin with
    strategy: Literal["none", "copied", "auxiliary", "joint", "progressive"] = "progressive"
    transfer_steps: int = 0  # of layer-wise transfer, before (or, auxiliary: on top of) train.steps of distillation
    soft_rate: float = 0.0  # progressive: of the learning rate, for the layers below the one that is trained
    calibrate: bool = True  # fit a NoNorm to the teacher's LayerNorm when the embedding is copied
    attention: float = 1.0  # λ
    feature_map: float = 100.0  # μ
    mean: float = 5000.0  # β
    variance: float = 5.0  # γ
    alpha: float = 0.5
    feature_maps: Literal["decomposed", "plain"] = "decomposed"

    def weights(self) -> Weights:
        from ..distill import Weights

        return Weights(self.attention, self.feature_map, self.mean, self.variance, self.alpha, self.feature_maps)

    def stages(self, num_layers: int, steps: int) -> tuple[Stage, ...]:
        from ..distill import STRATEGIES
        from ..distill.strategies import pretraining

        if self.strategy in ("none", "copied"):
            return pretraining(num_layers, steps, self.strategy == "copied")
        if self.transfer_steps < 1:
            raise ModelError(f"transfer.transfer_steps is {self.transfer_steps}: {self.strategy} needs some")
        return STRATEGIES[self.strategy](num_layers, self.transfer_steps, steps, self.soft_rate)


@dataclass(frozen=True)
class DistillConfig:
    """configs/distill-*.toml"""

    output: str
    teacher: str  # a checkpoint folder
    model: ModelSource
    data: TextData
    transfer: Transfer = field(default_factory=Transfer)
    train: TrainSettings = field(default_factory=TrainSettings)


def distill(config: DistillConfig) -> Path:
    """Train and return the folder of the student."""
    from ..checkpoint import load_checkpoint
    from ..distill import Distillation, copy_ends
    from ..processes import join, leave
    from ..trainer import Trainer
    from .corpus import check_vocabulary, keep_vocabulary, record_trained_positions, run_batches

    train, transfer = config.train, config.transfer
    processes = join(train.device)
    try:
        teacher = load_checkpoint(Path(config.teacher), "mlm").to(processes.device)
        student = config.model.load("mlm", train.seed).to(processes.device)
        stages = transfer.stages(student.config.num_hidden_layers, train.steps)
        batches = run_batches(config.data, student, stages, train, processes)
        record_trained_positions(student, config.model, config.data)
        vocabulary = Path(config.data.folder) / "vocab.txt"
        for folder in (config.teacher, config.model.folder):
            check_vocabulary(folder, vocabulary)

        def begin(model: Model, stage: Stage) -> None:
            if stage.copies_ends:
                batch = {k: v.to(processes.device) for k, v in batches.batch(0, 0, 1, train.batch_size).items()}
                copy_ends(teacher, model, batch if transfer.calibrate else None)

        task = lambda model, stage: Distillation(model, teacher, stage, transfer.weights())  # noqa: E731
        task(student, stages[0])  # refuse a pair that does not match before anything is written
        trained = Trainer(student, task, stages, batches, Path(config.output), train, processes, begin).fit()
        if processes.first:
            keep_vocabulary(trained, vocabulary)
        return trained
    finally:
        leave()
