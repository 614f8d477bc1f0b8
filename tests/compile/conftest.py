"""Builders shared by the tests of compile: kernels called from here, small ONNX graphs, and a referee for them."""

import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compile.cpus import AVX2, AVX512, CPUS, NEON, Cpu, Isa
from compile.errors import CompileError
from compile.linking.link import find_toolchain, run_compiler
from compile.targets import Target, host_target, runs_here, with_cpu
from tests.support.graphs import Builder

# Kernels of a level that this machine has are compiled for it, others for this machine: LLVM takes vectors apart.
ISAS = [NEON, AVX2, AVX512]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", ISAS, ids=lambda isa: isa.name, scope="module")


@pytest.fixture(scope="session")
def host() -> Target:
    try:
        return host_target()
    except CompileError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def host_level(host: Target) -> Callable[[str], Target]:
    """host_level(cpu) is this machine with that CPU's instruction set alone; skips where it has none of it."""

    def of(cpu: str) -> Target:
        if CPUS[cpu].arch != host.arch or not runs_here(level := with_cpu(host, cpu)):
            pytest.skip(f"this machine runs no {cpu} code")
        return level

    return of


def cpu_for(isa: Isa, host: Target) -> Cpu:
    """The plainest CPU with this instruction set that this machine can stand in for, else this machine's own."""
    levels = (with_cpu(host, cpu.name) for cpu in CPUS.values() if (cpu.arch, cpu.isa) == (host.arch, isa))
    return next((level.cpu for level in levels if runs_here(level)), host.cpu)


@pytest.fixture(scope="session")
def link_kernels(host: Target, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Iterable[Any]], Callable]:
    """link_kernels(kernels) compiles them, each for its level, into one library; returns call(kernel, *arguments).

    Arguments are arrays (passed by address), pointers or whole numbers, as in the kernel's C signature.
    """
    from compile.codegen.objects import compile_kernels

    def link(kernels: Iterable[Any]) -> Callable[..., None]:
        folder = tmp_path_factory.mktemp("kernels")
        objects, of_cpu = [], defaultdict(dict)
        for kernel in kernels:
            of_cpu[cpu_for(kernel.isa, host)][kernel.name] = kernel
        for cpu, named in of_cpu.items():
            objects += compile_kernels(named, host, folder, cpu)
        arguments = ["-shared", "-nostdlib", "-Wl,-z,undefs", *map(str, objects), "-o", "kernels.so"]
        run_compiler(find_toolchain(host), arguments, folder)
        library = ctypes.CDLL(str(folder / "kernels.so"))

        def call(kernel: Any, *arguments: Any) -> None:
            given = [
                ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray)
                else a if isinstance(a, ctypes.c_void_p)
                else ctypes.c_int32(int(a))
                for a in arguments
            ]  # fmt: skip
            getattr(library, kernel.name)(*given)

        return call

    return link


def aligned(array: np.ndarray, alignment: int = 64) -> np.ndarray:
    """A copy that begins at a multiple of `alignment`, with room for one vector read past its end."""
    array = np.ascontiguousarray(array)
    memory = np.zeros(array.nbytes + 2 * alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class Rows:
    """A tensor inside a larger one: `stride` elements from row to row, NaN wherever a kernel must not write.

    `view` is the tensor; `address` points at its first element; `untouched()` is whether all the rest is as it was.
    """

    def __init__(self, rows: int, columns: int, gap: int = 0, values: np.ndarray | None = None) -> None:
        self.stride = columns + gap
        self.memory = np.full((rows + 2) * self.stride + 64, np.nan, np.float32)
        self.view = self.memory[self.stride : (rows + 1) * self.stride].reshape(rows, self.stride)[:, :columns]
        self.address = ctypes.c_void_p(self.view.ctypes.data)
        if values is not None:
            self.view[...] = values

    def untouched(self) -> bool:
        inside = self.view.copy()
        self.view[...] = np.nan
        intact = bool(np.isnan(self.memory).all())
        self.view[...] = inside
        return intact


@pytest.fixture(scope="session")
def strided() -> type[Rows]:
    return Rows


@pytest.fixture(scope="session")
def at_64_bytes() -> Callable[[np.ndarray], np.ndarray]:
    return aligned


@pytest.fixture(scope="session")
def graph() -> type[Builder]:
    return Builder


@pytest.fixture(scope="session")
def lowered(host: Target) -> Callable[..., Any]:
    """lowered(model, tokens) is the program of kernel calls, without the graph passes before it."""
    from compile.importer.graph import import_model
    from compile.lowering.lower import lower

    def make(model: onnx.ModelProto, tokens: int = 8) -> Any:
        return lower(import_model(model, tokens), tokens, host.isa)

    return make


@pytest.fixture(scope="session")
def families() -> Callable[[Any], list[str]]:
    """The family of each call of a program, in order."""
    return lambda program: [type(call.kernel).__name__ for call in program.calls]


@pytest.fixture
def agree(host: Target, tmp_path: Path) -> Callable[..., Path]:
    """agree(model, tokens) compiles, runs and compares with ONNX Runtime on five samples; returns the artifact."""
    from compile.pipeline import BuildOptions, build_library
    from compile.running.load import load
    from compile.running.samples import random_samples
    from compile.running.verify import reference
    from pocketbert.numerics import relative_error

    def check(
        model: onnx.ModelProto, tokens: int = 8, bound: float = 1e-5, samples: int = 5, target: Target = host
    ) -> Path:
        folder = tmp_path / "artifact"
        result = build_library(model, "case", target, folder, BuildOptions(seq_len=tokens))
        given = random_samples(result.manifest, samples)
        for threads in (1, 3):
            with load(folder, threads) as library:
                for sample, wanted in zip(given, reference(model, given), strict=True):
                    error = relative_error(library.run(sample), wanted)
                    assert error <= bound, f"{error:.1e} of the output range with {threads} threads"
        return folder

    return check


@pytest.fixture(scope="session")
def float64_gelu() -> Callable[[np.ndarray], np.ndarray]:
    """x Φ(x) by the standard library's erf."""
    import math

    erf = np.vectorize(math.erf, otypes=[np.float64])
    return lambda x: x * 0.5 * (1.0 + erf(np.asarray(x, np.float64) / math.sqrt(2.0)))
