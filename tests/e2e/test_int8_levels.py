"""An int8 library gives the same bits on every level of an architecture: x86-64 as far as it is here, Arm emulated."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import compile
from compile.running.load import load, read_manifest
from compile.running.runners.qemu import ARM64_ROOT, QemuRunner
from compile.running.samples import random_samples
from compile.targets import CPUS, host_cpu_flags
from tune.runners.emulated import EmulatedRunner

TOKENS = 37
# Of one inference of two layers of MobileBERT, 128 tokens, one thread (docs/performance.md has the whole model's).
INSTRUCTIONS = {"armv8.0": 75.1e6, "cortex-a76": 24.4e6, "cortex-x2": 17.9e6}
X86 = [cpu for cpu in CPUS.values() if cpu.arch == "x86_64" and set(cpu.required) <= host_cpu_flags()]


@pytest.mark.skipif(len(X86) < 2, reason="this machine has one level of x86-64 or none")
@pytest.mark.parametrize("preset", ["mobilebert", "bert-base"])
def test_every_level_gives_the_same_bits(preset: str, exported: Callable, tmp_path: Path) -> None:
    source = exported(preset, seq_len=TOKENS)
    answers = []
    for cpu in X86:
        out = tmp_path / cpu.name
        compile.build(source, target="x86_64-linux", cpu=cpu.name, seq_len=TOKENS, precision="int8", db="none", out=out)
        assert any(call.kernel.startswith("linear_i8_") for call in read_manifest(out).calls)
        with load(out, threads=1) as library:
            answers.append([library.run(given) for given in random_samples(read_manifest(out), 3, seed=0)])
    for cpu, answer in zip(X86, answers, strict=True):
        for first, same in zip(answers[0], answer, strict=True):
            for name, values in first.items():
                assert np.array_equal(same[name], values), f"{cpu.name} differs from {X86[0].name} in {name}"


@pytest.fixture(scope="module")
def arm64(exported: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("qemu-aarch64") is None or not ARM64_ROOT.is_dir():
        pytest.skip("needs qemu-aarch64 and glibc for arm64: Debian packages qemu-user, libc6-arm64-cross")
    out = tmp_path_factory.mktemp("int8") / "arm64"
    return compile.build(exported("mobilebert"), target="arm64-android", precision="int8", out=out).folder


def test_every_level_of_arm64_gives_the_same_bits(arm64: Path) -> None:
    facts, answers = read_manifest(arm64), []
    for level in facts.levels:
        with QemuRunner(CPUS[level.cpu].qemu_cpu) as runner:
            answers.append(runner.outputs(arm64 / facts.library, facts, random_samples(facts, 1, seed=0))[0][0])
    for level, answer in zip(facts.levels, answers, strict=True):
        for name, values in answers[0].items():
            assert np.array_equal(answer[name], values), f"{level.cpu} differs in {name}"


@pytest.mark.parametrize("cpu", INSTRUCTIONS)
def test_instructions_of_two_layers(cpu: str, arm64: Path) -> None:
    """Counted exactly, so that no change of kernels makes int8 2 % dearer (or cheaper) without being noticed."""
    with EmulatedRunner(CPUS[cpu].qemu_cpu) as runner:
        counted = runner.measure(arm64).median_ms * 1e6
    assert counted == pytest.approx(INSTRUCTIONS[cpu], rel=0.02)
