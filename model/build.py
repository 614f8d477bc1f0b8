"""From a name to a module with weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from .config import Head, ModelConfig
from .heads import Model
from .presets import find_preset


def create(preset: str | ModelConfig, head: Head = "none", seed: int = 0) -> Model:
    """A model with random weights, the same for the same seed, in evaluation mode.

    As BERT does: matrices from a normal of deviation 0.02 cut at two deviations, biases 0, norms γ = 1 and β = 0.
    """
    config = find_preset(preset) if isinstance(preset, str) else preset
    with torch.device("meta"):
        model = Model(config, head)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        init_parameter(name, parameter, generator)
    return model.eval()


def load(name_or_folder: str | Path, head: Head | None = None, seed: int = 0) -> Model:
    """The checkpoint in a folder or, if there is no such folder, the preset of that name with random weights.

    `head` is the checkpoint's own unless given, and "none" for a preset. `seed` is for whatever is random: all
    weights of a preset, and a head that the checkpoint does not have.
    """
    if Path(name_or_folder).is_dir():
        from .checkpoint import load_checkpoint

        return load_checkpoint(name_or_folder, head, seed)
    return create(str(name_or_folder), head or "none", seed)


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
