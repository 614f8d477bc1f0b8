"""Against the same weights in float64: every length, every kind of mask, every level of instruction set."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import compile
from compile.cpus import CPUS
from compile.running.load import read_manifest
from compile.running.runners.qemu import ARM64_ROOT, QemuRunner
from pocketbert.numerics import relative_error

TOKENS = 128
# Promised is 1e-4; float32's own rounding leaves less than this, and a mistake in one row or column far more.
BOUND = 3e-6
MASKS = {
    "nothing hidden": lambda rng, n: np.ones(n),
    "an end that is padding": lambda rng, n: np.arange(n) < rng.integers(1, n + 1),
    "holes": lambda rng, n: rng.random(n) < 0.6,
    "all but one hidden": lambda rng, n: np.arange(n) == rng.integers(0, n),
    "everything hidden": lambda rng, n: np.zeros(n),
}


@pytest.fixture(scope="module")
def exact(randomized: Callable) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The two layers of MobileBERT that the session's libraries are made of, in float64."""
    import torch

    import model

    small = replace(model.PRESETS["mobilebert"], num_hidden_layers=2, vocab_size=1000, max_position_embeddings=160)
    network = randomized(small).double().eval()

    @torch.no_grad()
    def run(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(given[name]) for name in ("input_ids", "attention_mask", "token_type_ids")]
        return {name: value.numpy() for name, value in network(*tensors).items()}

    return run


def sample(length: int, kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([length, list(MASKS).index(kind)])
    return {
        "input_ids": rng.integers(0, 1000, (1, length)),
        "attention_mask": MASKS[kind](rng, length).astype(np.int64)[None],
        "token_type_ids": rng.integers(0, 2, (1, length)),
    }


def test_every_length_and_every_mask(mobilebert_library: Path, exact: Callable) -> None:
    worst: dict[str, float] = {}
    with compile.load(mobilebert_library, threads=1) as opened:
        for length in range(1, TOKENS + 1):
            for kind in list(MASKS)[length % 2 :: 2]:
                given = sample(length, kind)
                error = relative_error(opened.run(given), exact(given))
                worst[kind] = max(worst.get(kind, 0.0), error)
    assert max(worst.values()) <= BOUND, worst


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64: Debian package qemu-user")
@pytest.mark.skipif(not ARM64_ROOT.is_dir(), reason="needs glibc for arm64: Debian package libc6-arm64-cross")
def test_every_level_of_arm64(mobilebert_android: Path, exact: Callable) -> None:
    given = [sample(TOKENS, kind) for kind in MASKS]
    facts = read_manifest(mobilebert_android)
    for index, level in enumerate(facts.levels):
        some = given[index % 2 :: 2]
        with QemuRunner(CPUS[level.cpu].qemu_cpu) as runner:
            outputs, _ = runner.outputs(mobilebert_android / facts.library, facts, some)
        for got, one in zip(outputs, some, strict=True):
            assert relative_error(got, exact(one)) <= BOUND, level.cpu
