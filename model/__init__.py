"""The compact PyTorch core: MobileBERT-family encoders, their heads, checkpoints and ONNX export.

`load` takes the name of a preset or a Hugging Face folder and returns a module, `export` writes the module as ONNX:

>>> export(load("mobilebert"), "mobilebert.onnx", seq_len=128, batch=1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import HEADS, ModelConfig
from .errors import ModelError, NotOurs
from .export import export
from .presets import PRESETS

if TYPE_CHECKING:
    from .build import create, load
    from .checkpoint import load_checkpoint, save_checkpoint
    from .counting import count
    from .foreign import INSTALL, export_foreign, load_foreign, original, transformers_installed
    from .heads import Model
    from .initialize import randomize_norms

__all__ = [
    "HEADS",
    "INSTALL",
    "PRESETS",
    "Model",
    "ModelConfig",
    "ModelError",
    "NotOurs",
    "count",
    "create",
    "export",
    "export_foreign",
    "load",
    "load_checkpoint",
    "load_foreign",
    "original",
    "randomize_norms",
    "save_checkpoint",
    "transformers_installed",
]

_NEED_TORCH = {
    "Model": "heads",
    "count": "counting",
    "create": "build",
    "load": "build",
    "randomize_norms": "initialize",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "INSTALL": "foreign",
    "export_foreign": "foreign",
    "load_foreign": "foreign",
    "original": "foreign",
    "transformers_installed": "foreign",
}


def __getattr__(name: str) -> Any:  # torch takes seconds to import: only once something needs it
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_NEED_TORCH[name]}", __name__), name)
