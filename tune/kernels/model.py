"""The kernel calls of a model, as a build would make them; nothing is compiled."""

from __future__ import annotations

from pathlib import Path

from compile.artifact.manifest import Precision
from compile.databases import shipped
from compile.pipeline import BuildOptions, Clock, lower_model
from compile.program import Program
from compile.source import obtain
from compile.targets import Target


def program_of(
    model: str | Path, target: Target, seq_len: int, head: str | None = None, precision: Precision = "float32"
) -> Program:
    """model: a preset, a Hugging Face folder or an .onnx file. Tiles are those that a build takes without --db.

    Raises CompileError, PassError or ModelError.
    """
    options = BuildOptions(seq_len=seq_len, precision=precision, database=shipped(target.cpu))
    graph = obtain(str(model), seq_len, head, random_head=True).graph
    return lower_model(graph, target, options, Clock(None), verify_passes=False)[0]
