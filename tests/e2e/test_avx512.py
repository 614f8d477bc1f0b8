"""The x86_64-linux library on emulated processors: AVX-512 against float64, and which level runs where.

Bochs executes the instructions, so this needs no processor that has them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compile.linking.link import find_toolchain, run_compiler
from compile.running.load import read_manifest
from compile.running.runners.base import RunFailed
from compile.running.samples import input_bytes
from compile.targets import TARGETS
from pocketbert.numerics import relative_error
from tune.runners.bochs import AVX2_CPU, AVX512_CPU, YMM, ZMM, Machine, Result, missing

# As in test_numerics.py: float32's own rounding leaves less, and a mistake in one row or column far more.
BOUND = 3e-6
# Long and short, with and without rows left over from a tile; what of them is hidden.
CASES = [(128, "holes"), (64, "padding"), (17, "padding"), (5, "holes"), (1, "nothing"), (3, "everything")]
EVEX = 0x62  # what an AVX-512 instruction begins with, and in 64-bit mode no other

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="module")
def library(mobilebert: Path, compiled: Callable) -> Path:
    """Two layers of MobileBERT with kernels for AVX2 and AVX-512."""
    return compiled(mobilebert, "x86_64-linux")


def sample(tokens: int, hidden: str = "nothing") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(tokens)
    mask = {
        "nothing": np.ones(tokens),
        "padding": np.arange(tokens) < tokens * 2 // 3,
        "holes": rng.random(tokens) < 0.6,
        "everything": np.zeros(tokens),
    }[hidden]
    return {
        "input_ids": rng.integers(0, 1000, (1, tokens)),
        "attention_mask": mask.astype(np.int64)[None],
        "token_type_ids": rng.integers(0, 2, (1, tokens)),
    }


def run(machine: Machine, artifact: Path, given: dict[str, np.ndarray], **options: object) -> Result:
    manifest = read_manifest(artifact)
    tokens = given["input_ids"].shape[1]
    path = artifact / manifest.library
    return machine.run(path, manifest.name, input_bytes(manifest, given), tokens=tokens, **options)


def outputs_of(artifact: Path, result: Result, tokens: int) -> dict[str, np.ndarray]:
    arrays, offset = {}, 0
    for entry in read_manifest(artifact).outputs:
        shape = entry.shape_for(tokens)
        array = np.frombuffer(result.outputs, entry.dtype, int(np.prod(shape)), offset).reshape(shape)
        arrays[entry.name], offset = array, offset + array.nbytes
    assert offset == len(result.outputs)
    return arrays


def test_every_kind_of_length_and_mask(machine: Machine, library: Path, randomized: Callable) -> None:
    import torch

    import model

    small = replace(model.PRESETS["mobilebert"], num_hidden_layers=2, vocab_size=1000, max_position_embeddings=160)
    exact = randomized(small).double().eval()
    for tokens, hidden in CASES:
        given = sample(tokens, hidden)
        got = outputs_of(library, run(machine, library, given), tokens)
        with torch.no_grad():
            wanted = {name: value.numpy() for name, value in exact(*map(torch.from_numpy, given.values())).items()}
        assert relative_error(got, wanted) <= BOUND, (tokens, hidden)


def test_each_processor_runs_the_level_that_it_has_all_of(machine: Machine, library: Path) -> None:
    code = (library / read_manifest(library).library).read_bytes()

    def executed(cpu: str, registers: int | None = None) -> tuple[int, int]:
        counts = run(machine, library, sample(5), counted=True, cpu=cpu, registers=registers).counts
        return sum(counts.values()), sum(count for at, count in counts.items() if code[at] == EVEX)

    all_of_avx512, evex = executed(AVX512_CPU)
    all_of_avx2, none = executed(AVX2_CPU)
    assert evex > 0.7 * all_of_avx512
    assert none == 0
    assert all_of_avx512 < 0.5 * all_of_avx2
    # A system that does not save zmm registers: its programs must not use them, whatever the processor has.
    assert executed(AVX512_CPU, YMM) == (all_of_avx2, 0)


def test_a_library_for_avx512_alone(machine: Machine, exported: Callable, compiled: Callable, library: Path) -> None:
    alone = compiled(exported("mobilebert"), "x86_64-linux", "x86-64-v4")
    given = sample(17, "padding")
    both, one = (outputs_of(folder, run(machine, folder, given), 17) for folder in (library, alone))
    assert relative_error(one, both) <= BOUND
    with pytest.raises(RunFailed, match="this CPU lacks avx512f"):
        run(machine, alone, given, cpu=AVX2_CPU)


def test_the_processors_differ(machine: Machine, tmp_path: Path) -> None:
    """One instruction of AVX-512: it crashes wherever the library must not use one."""
    source = tmp_path / "zmm.c"
    source.write_text(
        "static char nothing[256];\n"
        'void *zmm_functions(void) { __asm__ volatile("vpxord %zmm0, %zmm0, %zmm0"); return nothing; }\n'
    )
    options = ["-shared", "-fPIC", "-nostdlib", "-Wl,--hash-style=gnu", "-fno-sanitize=undefined", "zmm.c"]
    run_compiler(find_toolchain(TARGETS["x86_64-linux"]), [*options, "-o", "zmm.so"], tmp_path)
    for cpu, registers, message in (
        (AVX2_CPU, YMM, "crashed with signal 4"),
        (AVX512_CPU, YMM, "crashed with signal 4"),
        (AVX512_CPU, ZMM, "another POCKETBERT_ABI"),
    ):
        with pytest.raises(RunFailed, match=message):
            machine.run(tmp_path / "zmm.so", "zmm", b"", cpu=cpu, registers=registers)
