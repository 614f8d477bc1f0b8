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


def predictions(model: Model, batch: dict[str, Tensor], hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scores of the M predicted words (M, V), and of the next sentence (B, 2) where the model has that head."""
    head = model.head
    assert isinstance(head, MaskedLanguageModel)
    chosen = hidden[batch["labels"] != IGNORED]  # (M, H)
    words = head.words(chosen[None], model.encoder.embeddings.word.weight)[0]
    return words, head.next_sentence(head.pooler(hidden)) if hasattr(head, "next_sentence") else None


def inputs(model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
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

    The teacher is in evaluation mode, has no gradients and is no submodule: it is neither trained nor saved.
    """

    def __init__(self, student: Model, teacher: Model, stage: Stage, weights: Weights):
        super().__init__()
        _check_pair(student, teacher, stage)
        self.model, self.stage, self.weights = student, stage, weights
        self._teacher = [teacher.eval().requires_grad_(False)]

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
                ours, theirs = getattr(states, on), getattr(expected, on)
                terms[name] = torch.stack([objective(theirs[i], ours[i], mask) for i in self.stage.transfer]).mean()
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
        return max(self.stage.transfer, default=-1) + 1

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
        return (("at", w.attention, attention_transfer, "attention_scores"), *maps)


def _check_pair(student: Model, teacher: Model, stage: Stage) -> None:
    """Transfer compares layer with layer, head with head and channel with channel."""
    names = ["vocab_size"]
    names += ["hidden_size", "num_hidden_layers", "num_attention_heads"] if stage.transfer else []
    for name in names:
        ours, theirs = getattr(student.config, name), getattr(teacher.config, name)
        if ours != theirs:
            raise ModelError(f"{name} is {ours} in the student and {theirs} in the teacher: they must be equal")
    if student.head_name != "mlm" or teacher.head_name != "mlm":
        raise ModelError("knowledge transfer needs student and teacher with their mlm heads")
