"""The arm64-android library itself, executed under emulation on the oldest, a middle and the newest kind of core."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compile
from compile.running.load import read_manifest
from compile.running.runners.qemu import ARM64_ROOT, QemuRunner
from compile.running.verify import can_run
from compile.targets import TARGETS
from pocketbert.numerics import relative_error
from tune.runners.emulated import EmulatedRunner

BOUND = 1e-4
CPUS = ["cortex-a53", "cortex-a76", "max"]
ANDROID = TARGETS["arm64-android"]
# Of one inference with one thread (benchmarks/arm64_cost.py has the whole model's).
INSTRUCTIONS = 73.5e6

pytestmark = [
    pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64: Debian package qemu-user"),
    pytest.mark.skipif(not ARM64_ROOT.is_dir(), reason="needs glibc for arm64: Debian package libc6-arm64-cross"),
]


@pytest.fixture(scope="module")
def emulated() -> Callable[..., list[dict[str, np.ndarray]]]:
    """emulated(artifact, core, samples, threads): the outputs."""
    assert can_run(ANDROID) is None

    def run(artifact: Path, core: str, samples: list[dict[str, np.ndarray]], threads: int = 1) -> Any:
        facts = read_manifest(artifact)
        with QemuRunner(core) as runner:
            return runner.outputs(artifact / facts.library, facts, samples, threads)[0]

    return run


@pytest.fixture
def agrees(emulated: Any, samples_and_answers: Callable) -> Callable[..., None]:
    def check(path: Path, artifact: Path, cpu: str, count: int = 1, threads: int = 1) -> None:
        samples, answers = samples_and_answers(path, artifact, count=count)
        for got, wanted in zip(emulated(artifact, cpu, samples, threads), answers, strict=True):
            assert relative_error(got, wanted) <= BOUND

    return check


@pytest.mark.parametrize("cpu", CPUS)
def test_two_layers_of_mobilebert(cpu: str, agrees: Callable, mobilebert: Path, mobilebert_android: Path) -> None:
    agrees(mobilebert, mobilebert_android, cpu)


def test_instructions_of_two_layers(mobilebert_android: Path) -> None:
    """Counted exactly, so that no change of kernels makes the library 2 % dearer (or cheaper) without being noticed."""
    with EmulatedRunner() as runner:
        counted = runner.measure(mobilebert_android).median_ms * 1e6
    assert counted == pytest.approx(INSTRUCTIONS, rel=0.02)


def test_each_core_runs_the_kernels_of_its_level(exported: Callable, compiled: Callable) -> None:
    """A count of instructions tells one level's kernels from another's: they are those of a library for that CPU."""
    path = exported("mobilebert-tiny", seq_len=16)
    every = compiled(path, "arm64-android", seq_len=16)
    alone = {cpu: compiled(path, "arm64-android", cpu, seq_len=16) for cpu in ("armv8.0", "cortex-a76")}

    def count(artifact: Path, core: str) -> float:
        with EmulatedRunner(core) as runner:
            return runner.measure(artifact).median_ms * 1e6

    counts = {core: count(every, core) for core in CPUS}
    assert counts["cortex-a53"] == pytest.approx(count(alone["armv8.0"], "cortex-a53"), rel=1e-5)
    assert counts["cortex-a76"] == pytest.approx(count(alone["cortex-a76"], "cortex-a76"), rel=1e-5)
    assert counts["max"] == pytest.approx(counts["cortex-a76"], rel=1e-5)
    assert counts["cortex-a53"] != pytest.approx(counts["cortex-a76"], rel=1e-3)


def test_layer_norm_and_gelu(agrees: Callable, exported: Callable, compiled: Callable) -> None:
    path = exported("distilbert-6l", seq_len=40)
    agrees(path, compiled(path, "arm64-android", seq_len=40), "cortex-a53")


def test_threads_change_no_bit(
    emulated: Any, samples_and_answers: Callable, exported: Callable, compiled: Callable
) -> None:
    path = exported("mobilebert-tiny", seq_len=16)
    artifact = compiled(path, "arm64-android", seq_len=16)
    samples, _ = samples_and_answers(path, artifact, count=1)
    (one,), (three,) = (emulated(artifact, "cortex-a53", samples, threads) for threads in (1, 3))
    assert all(np.array_equal(one[name], three[name]) for name in one)


def test_library_for_a_newer_core_refuses_an_older_one(
    emulated: Any, samples_and_answers: Callable, exported: Callable, compiled: Callable, agrees: Callable
) -> None:
    path = exported("mobilebert-tiny", seq_len=16)
    artifact = compiled(path, "arm64-android", "cortex-a76", seq_len=16)
    agrees(path, artifact, "cortex-a76")
    samples, _ = samples_and_answers(path, artifact, count=1)
    with pytest.raises(compile.CompileError, match="this CPU lacks dotprod"):
        emulated(artifact, "cortex-a53", samples)


def test_library_for_arm64_linux(agrees: Callable, exported: Callable, compiled: Callable) -> None:
    path = exported("mobilebert-tiny", seq_len=16)
    agrees(path, compiled(path, "arm64-linux", seq_len=16), "cortex-a53")


@pytest.mark.slow
def test_all_24_layers_on_the_oldest_core(agrees: Callable, exported: Callable, compiled: Callable) -> None:
    path = exported("mobilebert", full=True)
    artifact = compiled(path, "arm64-android")
    agrees(path, artifact, "cortex-a53", threads=2)
    sizes = read_manifest(artifact).sizes
    assert abs(sizes.library_bytes / sizes.weights_bytes - 1) <= 0.03
