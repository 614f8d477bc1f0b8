"""`distill`: a student from a teacher, by one of the papers' strategies."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ModelError
from ..settings import TrainSettings
from .sources import HeldOut, ModelSource, TextData

if TYPE_CHECKING:
    from ..distill import Stage, Weights
    from ..distill.objectives import Teacher
    from ..heads import Model


@dataclass(frozen=True)
class Transfer:
    """How knowledge is transferred. The factors are those of `model.distill.Weights`."""

    # none: distillation alone; copied: the same with the teacher's embedding and head to begin with
    strategy: Literal["none", "copied", "auxiliary", "joint", "progressive"] = "progressive"
    transfer_steps: int = 0  # of layer-wise transfer, before (or, auxiliary: on top of) train.steps of distillation
    soft_rate: float = 0.1  # progressive: of the learning rate, for the layers below the one that is trained
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
    teacher: (
        str  # a folder: BERT, DistilBERT, MobileBERT, RoBERTa, ELECTRA, of any shape, with the student's vocabulary
    )
    model: ModelSource
    data: TextData
    transfer: Transfer = field(default_factory=Transfer)
    train: TrainSettings = field(default_factory=TrainSettings)
    held_out: HeldOut | None = None  # text whose loss is logged at every checkpoint


def distill(config: DistillConfig) -> Path:
    """Train and return the folder of the student."""
    from ..data import vocabulary_in
    from ..distill import Distillation, copy_ends, project
    from ..distill.transformers_teacher import TransformersTeacher, load_teacher
    from ..processes import join, leave
    from ..trainer import Trainer
    from .corpus import check_vocabulary, judge, keep_vocabulary, record_trained_positions, run_batches

    train, transfer = config.train, config.transfer
    processes = join(train.device)
    try:
        teacher = load_teacher(Path(config.teacher), words=transfer.alpha < 1).to(processes.device)
        student = config.model.load("mlm", train.seed).to(processes.device)
        stages = fitting(transfer, teacher, student, train.steps)
        batches = run_batches(config.data, student, stages, train, processes)
        record_trained_positions(student, config.model, config.data)
        vocabulary = vocabulary_in(Path(config.data.folder))
        for folder in (config.teacher, config.model.folder):
            check_vocabulary(folder, vocabulary)

        def begin(model: Model, stage: Stage) -> None:
            if stage.copies_ends:
                batch = {k: v.to(processes.device) for k, v in batches.batch(0, 0, 1, train.batch_size).items()}
                assert not isinstance(teacher, TransformersTeacher)  # nothing of it fits
                copy_ends(teacher, model, batch if transfer.calibrate else None)

        if any(stage.transfer for stage in stages):
            project(student, teacher, train.seed)
        task = lambda model, stage: Distillation(model, teacher, stage, transfer.weights())  # noqa: E731
        task(student, stages[0])  # refuse a pair that does not match before anything is written
        held_out = judge(config.held_out, vocabulary, student.config.vocab_size, processes)
        output = Path(config.output)
        trained = Trainer(student, task, stages, batches, output, train, processes, begin, held_out).fit()
        if processes.first:
            keep_vocabulary(trained, vocabulary, student.config.longest)
        return trained
    finally:
        leave()


def fitting(transfer: Transfer, teacher: Teacher, student: Model, steps: int) -> tuple[Stage, ...]:
    """The strategy's stages for this pair. Says on the error stream what of the transfer their shapes leave out."""
    from ..distill import ends_fit
    from ..distill.strategies import without_copies
    from ..processes import is_first

    stages, left_out = transfer.stages(student.config.num_hidden_layers, steps), []
    heads, theirs = student.config.num_attention_heads, teacher.config.num_attention_heads
    if heads != theirs and transfer.attention and any(stage.transfer for stage in stages):
        left_out.append(f"attention is not compared: the student has {heads} heads, the teacher {theirs}")
    if any(stage.copies_ends for stage in stages) and not ends_fit(teacher, student):
        if transfer.strategy == "copied":
            raise ModelError("transfer.strategy is copied, and the teacher's embedding and head do not fit: none")
        stages = without_copies(stages, transfer.soft_rate)
        left_out.append("embedding and head are not copied: the teacher's have other sizes, or another form")
    for line in left_out if is_first() else ():
        print(line, file=sys.stderr, flush=True)
    return stages
