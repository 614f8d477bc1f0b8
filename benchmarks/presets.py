"""Presets as the benchmarks measure them: norms and biases random, since at 1 and 0 an optimiser could drop them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import compile
import model as core

SEQUENCE = 128


def create(preset: str, layers: int | None = None) -> Any:
    """The torch module, with seeded random weights; layers: instead of the preset's."""
    config = core.PRESETS[preset]
    module = core.create(replace(config, num_hidden_layers=layers or config.num_hidden_layers))
    core.randomize_norms(module)
    return module


def export(preset: str, layers: int | None, folder: Path) -> Path:
    """The preset as an ONNX file in `folder`, for one sequence of SEQUENCE tokens."""
    return core.export(create(preset, layers), folder / f"{preset}.onnx", seq_len=SEQUENCE, batch=1)


def build(preset: str, layers: int | None, folder: Path) -> Path:
    """Its artifact for this machine, in `folder` beside the ONNX file."""
    return compile.build(export(preset, layers, folder), target="host", out=folder / preset).folder
