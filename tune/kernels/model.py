"""The kernel calls of a model, as a build would make them; nothing is compiled."""

from __future__ import annotations

from pathlib import Path

from compile.build import obtain
from compile.databases import shipped
from compile.pipeline import BuildOptions, Clock, lower_model
from compile.program import Program
from compile.targets import Target
from pocketbert.temporary import TemporaryFolder


def program_of(model: str | Path, target: Target, seq_len: int, head: str | None = None) -> Program:
    """model: a preset, a Hugging Face folder or an .onnx file. Tiles are those that a build takes without --db.

    Raises CompileError, PassError or ModelError.
    """
    options = BuildOptions(seq_len=seq_len, database=shipped(target.cpu))
    with TemporaryFolder() as work:
        graph, _, _ = obtain(str(model), work, seq_len, head, True, 0, lambda *_: None)
        return lower_model(graph, target, options, Clock(None), verify_passes=False)[0]
