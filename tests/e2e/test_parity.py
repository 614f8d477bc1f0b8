"""The compiled library computes what ONNX Runtime computes from the exported model: ≤ 1e-4 of the output range."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import compile
import model
from compile.targets import find_target, runs_here
from pocketbert.numerics import relative_error

BOUND = 1e-4
ARCHITECTURES = ["mobilebert", "mobilebert-tiny", "mobilebert-without-opt", "bert-base", "distilbert-6l", "tinybert"]
HEADS = ["mlm", "sequence-classification", "token-classification", "question-answering"]


def check(
    path: Path, artifact: Path, samples_and_answers: Callable, threads: int = 1, seed: int = 0, count: int = 5
) -> None:
    samples, answers = samples_and_answers(path, artifact, count, seed)
    with compile.load(artifact, threads=threads) as library:
        for sample, wanted in zip(samples, answers, strict=True):
            got = library.run(sample)
            assert {name: y.shape for name, y in got.items()} == {name: y.shape for name, y in wanted.items()}
            assert relative_error(got, wanted) <= BOUND


def places() -> list[tuple[str, str | None]]:
    """(target, cpu): the best instruction set here and, if that is another, the least of x86-64 that has kernels."""
    least = find_target("x86_64-linux", "x86-64-v3")
    others = [("x86_64-linux", "x86-64-v3")] if runs_here(least) and find_target("host").cpu != least.cpu else []
    return [("host", None), *others]


@pytest.fixture(params=places(), ids=lambda place: place[1] or place[0])
def where(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    return request.param


@pytest.mark.parametrize("preset", ARCHITECTURES)
def test_two_layers_of(
    preset: str, where: tuple, exported: Callable, compiled: Callable, samples_and_answers: Callable
) -> None:
    path = exported(preset)
    check(path, compiled(path, *where), samples_and_answers)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_other_weights(seed: int, exported: Callable, compiled: Callable, samples_and_answers: Callable) -> None:
    """With seed 0 above, five models whose NoNorm weights and biases are random, on five padded inputs each."""
    path = exported("mobilebert", seed=seed)
    check(path, compiled(path), samples_and_answers, threads=2, seed=seed)


@pytest.mark.parametrize("head", HEADS)
def test_mobilebert_with_head(head: str, exported: Callable, compiled: Callable, samples_and_answers: Callable) -> None:
    path = exported("mobilebert", head, seed=5)
    check(path, compiled(path), samples_and_answers, threads=2)


@pytest.mark.parametrize("head", HEADS)
def test_distilbert_with_head(head: str, exported: Callable, compiled: Callable, samples_and_answers: Callable) -> None:
    path = exported("distilbert-6l", head, seed=5, seq_len=40)
    check(path, compiled(path, seq_len=40), samples_and_answers)


@pytest.mark.parametrize("seq_len", [1, 17, 160])
def test_length_that_no_tile_divides(
    seq_len: int, exported: Callable, compiled: Callable, samples_and_answers: Callable
) -> None:
    path = exported("mobilebert-tiny", seq_len=seq_len)
    for threads in (1, 3):
        check(path, compiled(path, seq_len=seq_len), samples_and_answers, threads)


@pytest.mark.parametrize("preset", ["mobilebert", "bert-base"])
def test_threads_change_no_bit(
    preset: str, exported: Callable, compiled: Callable, samples_and_answers: Callable
) -> None:
    path = exported(preset)
    samples, _ = samples_and_answers(path, compiled(path), count=3)
    results = []
    for threads in (1, 2, 4, 7):
        with compile.load(compiled(path), threads=threads) as library:
            results.append([library.run(sample) for sample in samples])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert all(np.array_equal(one[name], two[name]) for name in one)


def test_runs_leave_nothing_behind(mobilebert_library: Path, samples_and_answers: Callable, mobilebert: Path) -> None:
    """The same input gives the same bits after other inputs, the emptiest and the fullest mask included."""
    samples, _ = samples_and_answers(mobilebert, mobilebert_library)
    for sample, length in zip(samples[1:3], (1, 128), strict=True):
        sample["attention_mask"] = (np.arange(128) < length).astype(np.int64)[None]
    with compile.load(mobilebert_library, threads=2) as library:
        first = [library.run(sample) for sample in samples]
        again = [library.run(sample) for sample in reversed(samples)]
    for one, two in zip(first, reversed(again), strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_mask_that_keeps_nothing_gives_numbers(mobilebert_library: Path, samples_and_answers: Callable,
                                                 mobilebert: Path) -> None:  # fmt: skip
    samples, _ = samples_and_answers(mobilebert, mobilebert_library, count=1)
    samples[0]["attention_mask"][...] = 0
    with compile.load(mobilebert_library) as library:
        assert all(np.isfinite(y).all() for y in library.run(samples[0]).values())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mobilebert", "tinybert"])
def test_full_size(preset: str, exported: Callable, tmp_path: Path, samples_and_answers: Callable) -> None:
    check_all(exported(preset, full=True), tmp_path, samples_and_answers)


@pytest.mark.slow
def test_full_width(randomized: Callable, tmp_path: Path, samples_and_answers: Callable) -> None:
    """Two layers of BERT_BASE as wide as they are, with the whole vocabulary; ten more would be these again."""
    module = randomized(replace(model.PRESETS["bert-base"], num_hidden_layers=2))
    path = model.export(module, tmp_path / "bert-base.onnx", seq_len=128, batch=1)
    check_all(path, tmp_path, samples_and_answers)


def check_all(path: Path, tmp_path: Path, samples_and_answers: Callable) -> None:
    """Parity, and that the file is its weights and little else."""
    result = compile.build(path, target="host", out=tmp_path / "artifact")
    check(path, result.folder, samples_and_answers, threads=2, count=2)
    weights = result.manifest.sizes.weights_bytes
    assert result.manifest.sizes.library_bytes <= 1.03 * weights
    assert weights <= 1.03 * path.stat().st_size
