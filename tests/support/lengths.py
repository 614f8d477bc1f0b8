"""A library is right at every length up to the one that it was compiled for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compile.running.load import load
from compile.running.verify import reference
from pocketbert.numerics import relative_error


def check_every_length(graph: Callable[[Any], str], host: Any, folder: Path, tokens: int, ids: int) -> None:
    """Build `graph` without a generic kernel; compare it with ONNX Runtime at `tokens` and below, for ids < `ids`."""
    from compile.pipeline import BuildOptions, build_library
    from tests.support.graphs import Builder

    b = Builder()
    model = b.model(graph(b))
    built = build_library(model, "case", host, folder / "artifact", BuildOptions(seq_len=tokens))
    assert not built.manifest.generic_kernels
    assert built.manifest.shorter_sequences
    rng = np.random.default_rng(0)
    for threads in (1, 3):
        with load(built.folder, threads) as library:
            for length in range(tokens, 0, -1):
                given = {"input_ids": rng.integers(0, ids, (1, length))}
                given["attention_mask"] = (np.arange(length)[None] < max(1, length - 2)).astype(np.int64)
                given = {entry.name: given[entry.name] for entry in built.manifest.inputs}
                assert relative_error(library.run(given), reference(model, [given])[0]) <= 1e-5, length
