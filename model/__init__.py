"""The compact PyTorch core: MobileBERT-family encoders, their heads, checkpoints and ONNX export.

`load` takes the name of a preset or a Hugging Face folder and returns a module, `export` writes the module as ONNX:

>>> export(load("mobilebert"), "mobilebert.onnx", seq_len=128, batch=1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import HEADS, ModelConfig
from .errors import ModelError
from .export import export
from .presets import PRESETS

if TYPE_CHECKING:
    from .build import create, load
    from .checkpoint import load_checkpoint, save_checkpoint
    from .counting import count
    from .heads import Model
    from .initialize import randomize_norms

__all__ = [
    "HEADS",
    "PRESETS",
    "Model",
    "ModelConfig",
    "ModelError",
    "count",
    "create",
    "export",
    "load",
    "load_checkpoint",
    "randomize_norms",
    "save_checkpoint",
]

_NEED_TORCH = {
    "Model": "heads",
    "count": "counting",
    "create": "build",
    "load": "build",
    "randomize_norms": "initialize",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:  # torch takes seconds to import: only once something needs it
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_NEED_TORCH[name]}", __name__), name)
