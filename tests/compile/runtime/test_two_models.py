"""Models live side by side in one process: their symbols carry their names, and all else is hidden."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import compile


def test_two_models_linked_into_one_program(small_library: Callable, program: Callable, execute: Callable) -> None:
    folders = [small_library(), small_library(name="another")]
    done = execute(program(Path(__file__).parent / "two_models.c", *folders))
    assert done.returncode == 0, done.stderr
    got = [np.array(line.split(), np.float32) for line in done.stdout.splitlines()]
    for folder, numbers in zip(folders, got, strict=True):
        with compile.load(folder) as model:
            zeros = {e.name: np.zeros(e.shape, np.int64) for e in model.manifest.inputs}
            assert np.array_equal(model.run(zeros)["last_hidden_state"].ravel()[:8], numbers)
    assert not np.array_equal(*got)
