"""What a training step computes: modules from a batch to the loss and its terms, for any way of running in parallel.

A batch has input_ids, attention_mask, token_type_ids and labels (B, T) and next_sentence (B,), all int64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..data.instances import IGNORED
from ..errors import ModelError
from ..heads import MaskedLanguageModel, Model
from .attention import attention_transfer
from .feature_maps import feature_map_transfer, mean_transfer, normalized_feature_map_transfer, variance_transfer
from .pretraining import distillation, masked_language_model, next_sentence_prediction
from .strategies import Stage
from .transformers_teacher import TransformersTeacher


@dataclass(frozen=True)
class Weights:
    """The factors of the losses: L_KT = λ L_AT + μ L_FMT + β L_μ + γ L_σ, L_PD = α L_MLM + (1 − α) L_KD + L_NSP.

    As the ICLR paper sets them (equation 7). `feature_maps="plain"` puts equation 2 of the ACL paper in the place of
    the normalised difference, the means and the variances, with the factor μ.
    """

    attention: float = 1.0  # λ
    feature_map: float = 100.0  # μ
    mean: float = 5000.0  # β
    variance: float = 5.0  # γ
    alpha: float = 0.5
    feature_maps: Literal["decomposed", "plain"] = "decomposed"


Teacher = Model | TransformersTeacher


def predictions(model: Teacher, batch: dict[str, Tensor], hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scores of the M predicted words (M, V), and of the next sentence (B, 2) where the model has that head."""
    chosen = hidden[batch["labels"] != IGNORED]  # (M, H)
    if isinstance(model, TransformersTeacher):
        return model.words(chosen), None
    head = model.head
    assert isinstance(head, MaskedLanguageModel)
    words = head.words(chosen[None], model.encoder.embeddings.word.weight)[0]
    return words, head.next_sentence(head.pooler(hidden)) if hasattr(head, "next_sentence") else None


def inputs(model: Teacher, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    types = batch["token_type_ids"] if model.config.type_vocab_size else None
    return batch["input_ids"], batch["attention_mask"], types


class PreTraining(nn.Module):
    """L_MLM + L_NSP, for a teacher or a bare student."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.model.encoder(*inputs(self.model, batch))
        words, sentences = predictions(self.model, batch, hidden)
        labels = batch["labels"]
        terms = {"mlm": masked_language_model(words, labels[labels != IGNORED])}
        if sentences is not None:
            terms["nsp"] = next_sentence_prediction(sentences, batch["next_sentence"])
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}


class Distillation(nn.Module):
    """The loss of a stage: layer-wise transfer (the mean over the stage's layers), pre-training distillation, or both.

    The teacher is in evaluation mode, has no gradients and is no submodule: it is neither trained nor saved. Student
    layer l of L learns from the teacher's layer l · L^tr / L, to the nearest. Feature maps of another width are
    compared through the student's `transfer`, see `project`; attention only where both have as many heads. While layers
    alone are compared the student has no dropout, as in the code that the authors released.
    """

    def __init__(self, student: Model, teacher: Teacher, stage: Stage, weights: Weights):
        super().__init__()
        _check_pair(student, teacher)
        self.model, self.stage, self.weights = student, stage, weights
        self._teacher = [teacher.eval().requires_grad_(False)]

    def train(self, mode: bool = True) -> Distillation:
        super().train(mode)
        for part in self.modules() if mode and not self.stage.pretraining else ():
            if isinstance(part, nn.Dropout):
                part.eval()
        return self

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        teacher, w = self._teacher[0], self.weights
        with torch.no_grad():
            expected = teacher.encoder.states(*inputs(teacher, batch), depth=self.teacher_depth())
        states = self.model.encoder.states(*inputs(self.model, batch), depth=self.stage.depth)
        terms: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        mask = batch["attention_mask"]
        for name, factor, objective, on in self._objectives():
            if self.stage.transfer and factor:
                theirs = [getattr(expected, on)[self.teacher_layer(i)] for i in self.stage.transfer]
                ours = [getattr(states, on)[i] for i in self.stage.transfer]
                if on == "feature_maps" and hasattr(self.model, PROJECTIONS):
                    linears = [self.model.get_submodule(f"{PROJECTIONS}.{i}") for i in self.stage.transfer]
                    ours = [linear(x) for linear, x in zip(linears, ours, strict=True)]
                pairs = zip(theirs, ours, strict=True)
                terms[name] = torch.stack([objective(t, o, mask) for t, o in pairs]).mean()
                losses.append(factor * terms[name])
        if self.stage.pretraining:
            labels = batch["labels"]
            words, sentences = predictions(self.model, batch, states.feature_maps[-1])
            terms["mlm"] = masked_language_model(words, labels[labels != IGNORED])
            losses.append(w.alpha * terms["mlm"])
            if w.alpha < 1:
                with torch.no_grad():
                    opinion, _ = predictions(teacher, batch, expected.feature_maps[-1])
                terms["kd"] = distillation(opinion, words)
                losses.append((1 - w.alpha) * terms["kd"])
            if sentences is not None:
                terms["nsp"] = next_sentence_prediction(sentences, batch["next_sentence"])
                losses.append(terms["nsp"])
        if not losses:
            raise ModelError(f"stage {self.stage.name!r} has no loss: every factor is 0")
        return {"loss": torch.stack(losses).sum(), **terms}

    def teacher_depth(self) -> int:
        if self.stage.pretraining and self.weights.alpha < 1:
            return len(self._teacher[0].encoder.layers)
        return max(map(self.teacher_layer, self.stage.transfer), default=-1) + 1

    def teacher_layer(self, layer: int) -> int:
        """What the student's layer (from 0) is compared with."""
        ours, theirs = len(self.model.encoder.layers), len(self._teacher[0].encoder.layers)
        return max(1, round((layer + 1) * theirs / ours)) - 1

    def _objectives(self) -> tuple[tuple, ...]:
        w = self.weights
        if w.feature_maps == "plain":
            maps: tuple[tuple, ...] = (("fmt", w.feature_map, feature_map_transfer, "feature_maps"),)
        else:
            maps = (
                ("fmt", w.feature_map, normalized_feature_map_transfer, "feature_maps"),
                ("mean", w.mean, mean_transfer, "feature_maps"),
                ("variance", w.variance, variance_transfer, "feature_maps"),
            )
        heads = [model.config.num_attention_heads for model in (self.model, self._teacher[0])]
        if heads[0] != heads[1]:
            return maps
        return (("at", w.attention, attention_transfer, "attention_scores"), *maps)


PROJECTIONS = "transfer"  # a student's, in training alone


def project(student: Model, teacher: Teacher, seed: int) -> None:
    """Give the student a linear from each layer's feature map to the teacher's width, where it has another.

    They are trained with it, and are in checkpoints of the run, but not in the model that comes out (as TinyBERT's).
    """
    ours, theirs = student.config.hidden_size, teacher.config.hidden_size
    if ours == theirs:
        return
    generator = torch.Generator().manual_seed(seed)
    linears = [nn.Linear(ours, theirs, bias=False) for _ in student.encoder.layers]
    for linear in linears:
        nn.init.normal_(linear.weight, std=ours**-0.5, generator=generator)
    student.add_module(PROJECTIONS, nn.ModuleList(linears).to(next(student.parameters()).device))


def _check_pair(student: Model, teacher: Teacher) -> None:
    ours, theirs = student.config.vocab_size, teacher.config.vocab_size
    if ours != theirs:
        raise ModelError(f"vocab_size is {ours} in the student and {theirs} in the teacher: they must be equal")
    if student.head_name != "mlm" or teacher.head_name != "mlm":
        raise ModelError("knowledge transfer needs student and teacher with their mlm heads")
