"""Libraries for systems other than this machine's: what they compute where something here runs them."""

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import compile
from compile.linking.link import WARNINGS, find_toolchain, run_compiler
from compile.running.load import read_manifest
from compile.running.runners import qemu, wine
from compile.running.runners.local import run_on_files
from compile.running.samples import Sample, input_bytes, random_samples, read_outputs
from compile.runtime import INCLUDE, TOOLS
from compile.targets import CPUS, TARGETS
from pocketbert.numerics import relative_error
from tests.support.graphs import Builder
from tests.support.image import write_image

MUSL = Path(f"/lib/ld-musl-{platform.machine()}.so.1")
TOKENS = 16
FOREIGN = Path(__file__).parent / "foreign"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """built(target, cpu, precision): the artifact of a layer of attention and a stack of linears."""
    made: dict[tuple[str, str | None, str], Path] = {}
    b = Builder()
    x = b.norm(b.attention(b.input("x", [1, TOKENS, 32]), TOKENS, 2, 16), 32)
    y = b("Tanh", b.linear(b("Relu", b.linear(x, 32, 64)), 64, 32))
    model = tmp_path_factory.mktemp("targets") / "layer.onnx"
    model.write_bytes(b.model(b("LayerNormalization", y, b.normal(32), b.normal(32))).SerializeToString())

    def make(target: str, cpu: str | None = None, precision: str = "float32") -> Path:
        key = (target, cpu, precision)
        if key not in made:
            out = tmp_path_factory.mktemp("artifact") / target
            made[key] = compile.build(
                model, target=target, cpu=cpu, precision=precision, seq_len=TOKENS, db="none", out=out,
                verify_passes=False,
            ).folder  # fmt: skip
        return made[key]

    return make


@pytest.fixture(scope="module")
def sample(built: Callable) -> Sample:
    return random_samples(read_manifest(built("host")), 1, seed=3)[0]


@pytest.fixture(scope="module")
def answer(built: Callable, sample: Sample) -> Callable[[str], dict[str, np.ndarray]]:
    """answer(precision): what the library for this machine makes of the sample."""

    def run(precision: str) -> dict[str, np.ndarray]:
        with compile.load(built("host", precision=precision), threads=1) as library:
            return library.run(sample)

    return run


needs_riscv = pytest.mark.skipif(bool(qemu.missing("riscv64")), reason=f"needs {qemu.missing('riscv64')}")


@needs_riscv
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("core", ["rv64", CPUS["rv64gcv"].qemu_cpu, CPUS["rv64gcv"].qemu_cpu.replace("128", "256")])
def test_risc_v_with_and_without_vectors(
    core: str, precision: str, built: Callable, sample: Sample, answer: Callable
) -> None:
    artifact = built("riscv64-linux", precision=precision)
    facts = read_manifest(artifact)
    with qemu.QemuRunner(core, TARGETS["riscv64-linux"]) as runner:
        (got,), _ = runner.outputs(artifact / facts.library, facts, [sample], threads=2)
    assert relative_error(got, answer(precision)) < 1e-6


@needs_riscv
def test_risc_v_core_without_vectors_refuses_a_library_that_needs_them(built: Callable, sample: Sample) -> None:
    artifact = built("riscv64-linux", "rv64gcv")
    facts = read_manifest(artifact)
    with (
        qemu.QemuRunner("rv64", TARGETS["riscv64-linux"]) as runner,
        pytest.raises(compile.CompileError, match="this CPU lacks v, which the library was compiled for"),
    ):
        runner.outputs(artifact / facts.library, facts, [sample])


@pytest.mark.skipif(not MUSL.exists(), reason="needs musl (Debian package musl)")
def test_linux_library_in_a_program_of_musl(built: Callable, sample: Sample, answer: Callable, tmp_path: Path) -> None:
    """As in Alpine: its loader is the libc and libm that the library asks for. Threads have small stacks."""
    artifact = built("host")
    facts = read_manifest(artifact)
    triple = f"{platform.machine()}-linux-musl"
    arguments = ["-dynamic", "-O2", f"-I{INCLUDE}", str(TOOLS / "runner.c"), "-o", "runner"]
    run_compiler(find_toolchain(TARGETS[facts.target]).with_triple(triple), arguments, tmp_path)
    assert MUSL.name.encode() in (tmp_path / "runner").read_bytes()
    given = input_bytes(facts, sample)
    _, outputs = run_on_files([str(tmp_path / "runner")], artifact / facts.library, facts, given, (4, 0), 60)
    assert outputs == b"".join(value.tobytes() for value in answer("float32").values())


@pytest.mark.skipif(bool(wine.missing()), reason=f"needs {wine.NEEDED}")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_dll_under_wine(precision: str, built: Callable, sample: Sample, answer: Callable) -> None:
    artifact = built("x86_64-windows", precision=precision)
    facts = read_manifest(artifact)
    with wine.WineRunner() as runner:
        for threads in (1, 4):
            (got,), _ = runner.outputs(artifact / facts.library, facts, [sample], threads=threads)
            assert relative_error(got, answer(precision)) < 1e-6


@pytest.mark.skipif(bool(qemu.missing()), reason=f"needs {qemu.missing()}")
@pytest.mark.parametrize(
    ("target", "precision"),
    [("arm64-windows", "float32"), ("arm64-windows", "int8"), ("arm64-macos", "int8"), ("arm64-ios", "float32")],
)
def test_arm64_library_of_a_system_that_is_not_here(
    target: str, precision: str, built: Callable, sample: Sample, answer: Callable, tmp_path: Path
) -> None:
    """Its code, addresses and imports are right; the system's own functions are Linux's under other names."""
    artifact = built(target, precision=precision)
    facts = read_manifest(artifact)
    image = write_image(artifact / facts.library, facts.name, tmp_path / "image")
    arguments = ["-O2", *WARNINGS, f"-I{FOREIGN}", f"-I{INCLUDE}", str(TOOLS / "runner.c"), "-o", "foreign"]
    run_compiler(find_toolchain(TARGETS["arm64-linux"]), arguments, tmp_path)
    given, before = input_bytes(facts, sample), ("-L", str(qemu.ARM64_ROOT))
    # Every Mac has what zig takes for granted there, and cortex-a76 has not.
    for core in ["max"] if target == "arm64-macos" else ["cortex-a53", "cortex-a76", "max"]:
        program = [*qemu.command(core, *before), str(tmp_path / "foreign")]
        _, outputs = run_on_files(program, image, facts, given, (3, 0), 60)
        assert relative_error(read_outputs(facts, outputs), answer(precision)) < 1e-6
