"""A library runs any sequence up to its length, exactly as a model exported for just that length."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import compile
from compile.running.verify import reference
from pocketbert.numerics import relative_error

LENGTHS = [1, 2, 7, 16, 31, 64, 127]
PRESETS = ["mobilebert", "bert-base"]


def sample(length: int, names: list[str], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {
        "input_ids": rng.integers(0, 1000, (1, length)),
        "attention_mask": (np.arange(length) < rng.integers(1, length + 1)).astype(np.int64)[None],
        "token_type_ids": rng.integers(0, 2, (1, length)),
    }
    return {name: arrays[name] for name in names}


@pytest.fixture(scope="module", params=PRESETS)
def library(request: pytest.FixtureRequest, exported: Callable, compiled: Callable) -> Iterator[Any]:
    with compile.load(compiled(exported(request.param)), threads=2) as opened:
        assert opened.manifest.shorter_sequences
        opened.preset = request.param
        yield opened


@pytest.mark.parametrize("length", LENGTHS)
def test_shorter_sequence_is_onnx_runtimes(length: int, library: Any, exported: Callable) -> None:
    model = onnx.load(exported(library.preset, seq_len=length))
    given = sample(length, [entry.name for entry in library.manifest.inputs], seed=length)
    (wanted,), got = reference(model, [given]), library.run(given)
    assert {name: y.shape for name, y in got.items()} == {name: y.shape for name, y in wanted.items()}
    assert relative_error(got, wanted) <= 1e-4


def test_lengths_in_any_order_leave_nothing_behind(library: Any) -> None:
    names = [entry.name for entry in library.manifest.inputs]
    lengths = [128, 3, 64, 128, 1, 64, 3]
    results = [library.run(sample(length, names)) for length in lengths]
    for i, length in enumerate(lengths):
        first = results[lengths.index(length)]
        assert all(np.array_equal(first[name], results[i][name]) for name in first)


def test_threads_change_no_bit_of_a_shorter_sequence(mobilebert_library: Path) -> None:
    names = ["input_ids", "attention_mask", "token_type_ids"]
    results = []
    for threads in (1, 2, 4, 7):
        with compile.load(mobilebert_library, threads=threads) as opened:
            results.append([opened.run(sample(length, names)) for length in (1, 3, 50)])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("length", [0, 129, 1000])
def test_no_token_or_too_many_are_refused(length: int, mobilebert_library: Path) -> None:
    given = {name: np.zeros((1, length), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    with compile.load(mobilebert_library) as opened, pytest.raises(compile.CompileError, match="shape"):
        opened.run(given)


def test_inputs_of_different_lengths_are_refused(mobilebert_library: Path) -> None:
    given = sample(20, ["input_ids", "attention_mask", "token_type_ids"])
    given["attention_mask"] = given["attention_mask"][:, :19]
    with compile.load(mobilebert_library) as opened, pytest.raises(compile.CompileError, match="shape"):
        opened.run(given)
