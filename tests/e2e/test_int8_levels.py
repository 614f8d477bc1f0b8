"""An int8 library gives the same bits on every level of x86-64 that this machine has."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import compile
from compile.running.load import load, read_manifest
from compile.running.samples import random_samples
from compile.targets import CPUS, host_cpu_flags

TOKENS = 37
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
