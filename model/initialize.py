"""Random weights: BERT's for training, and norms and biases that hide no mistakes for tests and benchmarks."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def init_parameter(name: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    if name.endswith("norm.weight"):
        parameter.fill_(1.0)
    elif name.endswith("bias"):
        parameter.zero_()
    else:
        nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04, generator=generator)


@torch.no_grad()
def randomize_norms(model: nn.Module, seed: int = 0) -> None:
    """Draw every norm's γ from U(0.8, 1.2) and every bias from N(0, 0.02): γ = 1 and β = 0 hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.uniform_(0.8, 1.2, generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(0.0, 0.02, generator=generator)
