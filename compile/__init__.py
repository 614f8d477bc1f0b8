"""ONNX to a self-contained library for a phone: TVM compiles, nothing of it travels.

>>> result = build("mobilebert", target="host")
>>> with load(result.folder, threads=1) as library:
...     library.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketbert.command import stop_if_hidden

stop_if_hidden("passes")

# Here and not on first use: each of these modules has the name of its function, and a later import would put it first.
from compile.build import build
from compile.cpus import CPUS
from compile.errors import CompileError, RunError
from compile.running.load import Library, load
from compile.targets import TARGETS, Target, find_target

if TYPE_CHECKING:
    from compile.pipeline import BuildResult

__all__ = [
    "CPUS",
    "TARGETS",
    "BuildResult",
    "CompileError",
    "Library",
    "RunError",
    "Target",
    "build",
    "find_target",
    "load",
]


def __getattr__(name: str) -> Any:  # its module imports tvm, which takes seconds
    if name != "BuildResult":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from compile.pipeline import BuildResult

    return BuildResult
