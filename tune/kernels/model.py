"""The kernel calls of a model, as a build would make them; nothing is compiled."""

from __future__ import annotations

import tempfile
from pathlib import Path

import passes
from compile.build import obtain
from compile.databases import shipped, tile_table
from compile.frontend import check_operators, import_shaped, input_shapes
from compile.lower import lower
from compile.program import Program
from compile.targets import Target


def program_of(model: str | Path, target: Target, seq_len: int, head: str | None = None) -> Program:
    """model: a preset, a Hugging Face folder or an .onnx file. Tiles are those that a build takes without --db.

    Raises CompileError, PassError or ModelError.
    """
    with tempfile.TemporaryDirectory(prefix="pocketbert-") as work:
        graph, _, _ = obtain(str(model), Path(work), seq_len, head, 0, lambda *_: None)
        optimised, _ = passes.run(graph, options=passes.Options(attention="matmuls"), verify=False)
    check_operators(optimised)
    tiles, _ = tile_table(shipped(target.cpu), target)
    return lower(import_shaped(optimised, input_shapes(optimised, seq_len)), seq_len, target.isa, tiles)
