"""From a name to a module with weights."""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoint import load_checkpoint
from .config import Head, ModelConfig
from .heads import Model, empty_model
from .initialize import init_parameter
from .presets import find_preset
from .sentence import read_sentence_modules


def create(preset: str | ModelConfig, head: Head = "none", seed: int = 0) -> Model:
    """A model with random weights, the same for the same seed, in evaluation mode.

    As BERT does: matrices from a normal of deviation 0.02 cut at two deviations, biases 0, norms γ = 1 and β = 0.
    """
    config = find_preset(preset) if isinstance(preset, str) else preset
    model = empty_model(config, head)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        init_parameter(name, parameter, generator)
    return model.eval()


def load(
    name_or_folder: str | Path,
    head: Head | None = None,
    seed: int = 0,
    random_head: bool | None = None,
    pooled: bool = True,
) -> Model:
    """The checkpoint in a folder or, if there is no such folder, the preset of that name with random weights.

    `head` is the checkpoint's own unless given, the embedding of a sentence-transformers folder, and "none" for a
    preset. `seed` is for whatever is random: all weights of a preset, and a head that the checkpoint does not have, as
    far as `random_head` allows that. Not `pooled`, the embedding is left out, and its last_hidden_state is there.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        encoder, modules = read_sentence_modules(folder, head)
        if modules is None:
            return load_checkpoint(encoder, head, seed, random_head)
        model = load_checkpoint(encoder, "none")
        return model.end_in(modules) if pooled else model
    return create(str(name_or_folder), head or "none", seed)
