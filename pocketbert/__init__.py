"""A BERT-family encoder becomes one self-contained library that a phone app loads.

>>> import pocketbert
>>> result = pocketbert.build("mobilebert", target="host")
>>> with pocketbert.load(result.folder) as library:
...     library.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})

Each name is imported from its room (`compile`, `model`, `passes`, `tune`) when it is first asked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pocketbert.errors import PocketBERTError

if TYPE_CHECKING:
    from compile import BuildResult, CompileError, Library, build, find_target, load
    from model import ModelConfig, ModelError, create, export, load_checkpoint, randomize_norms, save_checkpoint
    from model import load as load_model
    from passes import PassError
    from passes import run as optimize
    from tune.errors import TuneError

# ONNX Runtime's builds report their use to its maker, and keep a file for that where temporary files are.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

__all__ = [
    "BuildResult",
    "CompileError",
    "Library",
    "ModelConfig",
    "ModelError",
    "PassError",
    "PocketBERTError",
    "TuneError",
    "__version__",
    "build",
    "create",
    "export",
    "find_target",
    "load",
    "load_checkpoint",
    "load_model",
    "optimize",
    "randomize_norms",
    "save_checkpoint",
]

# Name -> its module, and its name there where that is another one.
_PLACES = {
    **dict.fromkeys(("BuildResult", "CompileError", "Library", "build", "find_target", "load"), ("compile", "")),
    **dict.fromkeys(("ModelConfig", "ModelError", "create", "export", "randomize_norms"), ("model", "")),
    **dict.fromkeys(("load_checkpoint", "save_checkpoint"), ("model", "")),
    "load_model": ("model", "load"),
    "PassError": ("passes", ""),
    "optimize": ("passes", "run"),
    "TuneError": ("tune.errors", ""),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from pocketbert.command import require_own_rooms

    module, there = _PLACES[name]
    require_own_rooms(module.partition(".")[0])
    return getattr(import_module(module), there or name)


def __dir__() -> list[str]:
    return __all__
