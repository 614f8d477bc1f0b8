"""Strategies: plain schedules of stages, each saying what is compared and what trains (section 3.6, Figure 2).

A rate is a fraction of the learning rate; 0 freezes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from ..errors import ModelError


@dataclass(frozen=True)
class Stage:
    """Some steps of training with one loss and one set of parameters that move."""

    name: str
    steps: int  # optimizer steps
    layers: tuple[float, ...]  # rate of each layer
    embeddings: float = 1.0
    head: float = 1.0
    transfer: tuple[int, ...] = ()  # layers (from 0) whose feature maps and attention are compared with the teacher's
    pretraining: bool = True  # whether the words and next sentences are predicted (L_PD, or L_MLM + L_NSP)
    copies_ends: bool = False  # whether embedding and classifier are copied from the teacher before the first step

    def rate(self, name: str) -> float:
        """Of the model's parameter of that name."""
        if name.startswith("transfer."):  # `objectives.project`
            return float(int(name.split(".")[1]) in self.transfer)
        part, _, rest = name.removeprefix("encoder.").partition(".")
        if part == "layers":
            return self.layers[int(rest.partition(".")[0])]
        return self.embeddings if part == "embeddings" else self.head

    @property
    def depth(self) -> int:
        """How many layers run."""
        return len(self.layers) if self.pretraining else max(self.transfer) + 1


def pretraining(num_layers: int, steps: int, copies_ends: bool = False) -> tuple[Stage, ...]:
    """Everything trains on words and next sentences: a teacher, a bare student, or one with distillation alone."""
    return (Stage("pre-training", steps, (1.0,) * num_layers, copies_ends=copies_ends),)


def auxiliary(num_layers: int, transfer_steps: int, steps: int, soft_rate: float = 0.0) -> tuple[Stage, ...]:
    """AKT: one loss of everything, for as many steps as the other strategies take in all."""
    return (Stage("auxiliary", transfer_steps + steps, (1.0,) * num_layers, transfer=tuple(range(num_layers))),)


def joint(num_layers: int, transfer_steps: int, steps: int, soft_rate: float = 0.0) -> tuple[Stage, ...]:
    """JKT: all layers learn from the teacher's together, then pre-training distillation."""
    everything, layers = (1.0,) * num_layers, tuple(range(num_layers))
    transfer = Stage("joint transfer", transfer_steps, everything, 0.0, 0.0, layers, False, True)
    return (transfer, Stage("distillation", steps, everything))


def without_copies(stages: Sequence[Stage], soft_rate: float) -> tuple[Stage, ...]:
    """The same for a teacher whose embedding and head do not fit: the first stage trains an embedding instead.

    Those between it and distillation train the embedding as they do the layers below theirs.
    """
    rates = [1.0 if i == 0 or stage.pretraining else soft_rate for i, stage in enumerate(stages)]
    return tuple(replace(s, copies_ends=False, embeddings=rate) for s, rate in zip(stages, rates, strict=True))


def progressive(num_layers: int, transfer_steps: int, steps: int, soft_rate: float = 0.0) -> tuple[Stage, ...]:
    """PKT: one layer after another, those below frozen or (softened) at `soft_rate`, then distillation.

    `transfer_steps` are shared out evenly; earlier layers take what does not divide.
    """
    if transfer_steps < num_layers:
        raise ModelError(f"transfer_steps is {transfer_steps}: progressive transfer needs one a layer, {num_layers}")
    each, more = divmod(transfer_steps, num_layers)
    stages = []
    for i in range(num_layers):
        rates = (soft_rate,) * i + (1.0,) + (0.0,) * (num_layers - i - 1)
        stages.append(Stage(f"layer {i + 1}", each + (i < more), rates, 0.0, 0.0, (i,), False, i == 0))
    return (*stages, Stage("distillation", steps, (1.0,) * num_layers))


STRATEGIES = {"auxiliary": auxiliary, "joint": joint, "progressive": progressive}


def freeze(model: nn.Module, stage: Stage) -> None:
    """Let gradients reach only what the stage trains."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(stage.rate(name) > 0)
