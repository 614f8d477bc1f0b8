"""ONNX to a self-contained library for a phone: TVM compiles, nothing of it travels.

>>> result = build("mobilebert", target="host")
>>> with load(result.folder, threads=1) as library:
...     library.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compile.errors import CompileError
from compile.targets import CPUS, TARGETS, Target, find_target

if TYPE_CHECKING:
    from compile.build import build
    from compile.load import Library, load
    from compile.pipeline import BuildResult

__all__ = ["CPUS", "TARGETS", "BuildResult", "CompileError", "Library", "Target", "build", "find_target", "load"]

_HOMES = {"build": "build", "Library": "load", "load": "load", "BuildResult": "pipeline"}


def __getattr__(name: str) -> Any:  # tvm takes seconds to import: only once something needs it
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"compile.{_HOMES[name]}"), name)
