"""Losses of fine-tuning, as modules that the trainer runs, and predictions."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distill.pretraining import distillation
from ..heads import Model


def forward(model: Model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])


class Classification(nn.Module):
    """Cross-entropy over the labels or, where the model has one output, the squared error of a score."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.terms(forward(self.model, batch), batch)

    def terms(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = outputs["logits"].float()  # (B, labels)
        if logits.shape[1] == 1:
            return {"loss": F.mse_loss(logits[:, 0], batch["label"].float())}
        return {"loss": F.cross_entropy(logits, batch["label"].long())}


class Spans(Classification):
    """The mean of the cross-entropies of an answer's first and last token."""

    def terms(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        ends = ("start", "end")
        terms = {name: F.cross_entropy(outputs[f"{name}_logits"].float(), batch[name].long()) for name in ends}
        return {"loss": (terms["start"] + terms["end"]) / 2, **terms}


class Taught(nn.Module):
    """α · the task's loss + (1 − α) · the teacher's: T² KL(p^tr ‖ p), p softmax(logits / T), or a score's square error.

    The mean over the model's outputs. The teacher, a `finetune.teacher.TeacherModel`, stands still, as in
    `distill.Distillation`.
    """

    def __init__(self, task: Classification, teacher: nn.Module, alpha: float, temperature: float):
        super().__init__()
        self.task, self.model, self.alpha, self.temperature = task, task.model, alpha, temperature
        self._teacher = [teacher.eval().requires_grad_(False)]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = forward(self.model, batch)
        with torch.no_grad():
            expected = self._teacher[0](batch)
        terms = self.task.terms(outputs, batch)
        kd = torch.stack([self.teach(expected[name].float(), outputs[name].float()) for name in outputs]).mean()
        return terms | {"task": terms["loss"], "kd": kd, "loss": self.alpha * terms["loss"] + (1 - self.alpha) * kd}

    def teach(self, teacher: Tensor, student: Tensor) -> Tensor:
        if student.shape[1] == 1:
            return F.mse_loss(student, teacher)
        return self.temperature**2 * distillation(teacher / self.temperature, student / self.temperature)


@torch.inference_mode()
def predict(model: Model, batches: Iterable[dict[str, Tensor]]) -> list[list[Tensor]]:
    """For each row, the model's outputs (float32, on the CPU), in evaluation mode."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    rows: list[list[Tensor]] = []
    for batch in batches:
        outputs = forward(model, {name: value.to(device) for name, value in batch.items()})
        rows += [list(row) for row in zip(*(value.float().cpu() for value in outputs.values()), strict=True)]
    model.train(training)
    return rows


def labels_of(rows: list[list[Tensor]]) -> list[float]:
    """The likeliest label's number, or the score."""
    return [float(logits[0]) if len(logits) == 1 else float(logits.argmax()) for (logits,) in rows]
