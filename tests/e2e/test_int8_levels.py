"""An int8 library gives the same bits on every level of every architecture; what an inference costs on Arm."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import compile
from compile.cpus import CPUS, Cpu
from compile.running.load import load, read_manifest
from compile.running.runners.qemu import QemuRunner, missing
from compile.running.samples import random_samples
from compile.targets import host_cpu_flags
from tune.runners.emulated import EmulatedRunner

TOKENS = 37
# Of one inference of two layers of MobileBERT, 128 tokens, one thread (docs/performance.md has the whole model's).
INSTRUCTIONS = {"armv8.0": 75.1e6, "cortex-a76": 24.4e6, "cortex-x2": 17.9e6}
# Without a fused multiply-add (x86-64-v2, Android's emulator) sums of floats are rounded twice.
X86 = [cpu for cpu in CPUS.values() if "fma" in cpu.required and set(cpu.required) <= host_cpu_flags()]


Outputs = dict[str, np.ndarray]


def on_x86(source: Path, cpu: Cpu, out: Path) -> Outputs:
    compile.build(source, target="x86_64-linux", cpu=cpu.name, seq_len=TOKENS, precision="int8", db="none", out=out)
    with load(out, threads=1) as library:
        return library.run(random_samples(library.manifest, 1, seed=0)[0])


def on_arm64(source: Path, out: Path) -> dict[str, Outputs]:
    """Each level's, of one library."""
    compile.build(source, target="arm64-android", seq_len=TOKENS, precision="int8", db="none", out=out)
    facts, answers = read_manifest(out), {}
    for level in facts.levels:
        with QemuRunner(CPUS[level.cpu].qemu_cpu) as runner:
            answers[level.cpu] = runner.outputs(out / facts.library, facts, random_samples(facts, 1, seed=0))[0][0]
    return answers


@pytest.mark.parametrize("preset", ["mobilebert", "bert-base"])
def test_every_level_gives_the_same_bits(preset: str, exported: Callable, tmp_path: Path) -> None:
    """x86-64's as far as they are here and Arm's as far as they can be emulated: at least two of them."""
    source = exported(preset, seq_len=TOKENS)
    answers = {cpu.name: on_x86(source, cpu, tmp_path / cpu.name) for cpu in X86}
    if not missing():
        answers |= on_arm64(source, tmp_path / "arm64")
    if len(answers) < 2:
        pytest.skip(f"one level runs here at most: {missing()}")
    (first, wanted), *others = answers.items()
    assert any(call.kernel.startswith("linear_i8_") for call in read_manifest(tmp_path / first).calls)
    for cpu, answer in others:
        for name, values in wanted.items():
            assert np.array_equal(answer[name], values), f"{cpu} differs from {first} in {name}"


@pytest.fixture(scope="module")
def arm64(exported: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing():
        pytest.skip(f"needs {missing()}")
    out = tmp_path_factory.mktemp("int8") / "arm64"
    return compile.build(exported("mobilebert"), target="arm64-android", precision="int8", out=out).folder


@pytest.mark.parametrize("cpu", INSTRUCTIONS)
def test_instructions_of_two_layers(cpu: str, arm64: Path) -> None:
    """Counted exactly, so that no change of kernels makes int8 2 % dearer (or cheaper) without being noticed."""
    with EmulatedRunner(CPUS[cpu].qemu_cpu) as runner:
        counted = runner.measure(arm64).median_ms * 1e6
    assert counted == pytest.approx(INSTRUCTIONS[cpu], rel=0.02)
