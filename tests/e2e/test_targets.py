"""Libraries for systems other than this machine's: what they compute where something here runs them."""

import platform
import plistlib
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compile
from compile.artifact.maven import Coordinates
from compile.artifact.xcframework import write_xcframework
from compile.cpus import CPUS
from compile.linking.dylib_rules import check_dylib
from compile.linking.link import WARNINGS, find_toolchain, run_compiler
from compile.running.load import read_manifest
from compile.running.runners import node, qemu, wine
from compile.running.runners.base import RunnerError
from compile.running.runners.local import run_on_files
from compile.running.samples import Sample, input_bytes, random_samples, read_outputs
from compile.runtime import INCLUDE, TOOLS
from compile.targets import TARGETS, find_target, runs_here
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
    [
        ("arm64-windows", "float32"),
        ("arm64-windows", "int8"),
        ("arm64-macos", "int8"),
        ("arm64-ios", "float32"),
        ("arm64-ios-simulator", "float32"),
    ],
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
    # Every Mac, and so its simulator, has what zig takes for granted there, and cortex-a76 has not.
    for core in ["max"] if target in ("arm64-macos", "arm64-ios-simulator") else ["cortex-a53", "cortex-a76", "max"]:
        program = [*qemu.command(core, *before), str(tmp_path / "foreign")]
        _, outputs = run_on_files(program, image, facts, given, (3, 0), 60)
        assert relative_error(read_outputs(facts, outputs), answer(precision)) < 1e-6


def test_xcframework(built: Callable, tmp_path: Path) -> None:
    """What Xcode reads: two frameworks that say what they are for, each with its headers and a module map."""
    artifact, simulator = built("arm64-ios"), built("arm64-ios-simulator")
    device = read_manifest(artifact)
    both = [(simulator, read_manifest(simulator))]
    shutil.copytree(artifact, tmp_path, dirs_exist_ok=True)
    package = write_xcframework(tmp_path, device, Coordinates("com.example", device.name, "1.2"), both)
    with zipfile.ZipFile(tmp_path / package.file) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        archive.extractall(tmp_path)
    root = f"{device.name}.xcframework"
    (tmp_path / "app.m").write_text(
        f"@import {device.name};\n"
        f"int open_it(pocketbert_model **model) {{ return {device.name}_open(NULL, model) == POCKETBERT_OK; }}\n"
    )
    libraries = plistlib.loads(files[f"{root}/Info.plist"])["AvailableLibraries"]
    assert [library.get("SupportedPlatformVariant") for library in libraries] == [None, "simulator"]
    for library, platform_name in zip(libraries, ("iPhoneOS", "iPhoneSimulator"), strict=True):
        folder = f"{root}/{library['LibraryIdentifier']}/{library['LibraryPath']}"
        facts = plistlib.loads(files[f"{folder}/Info.plist"])
        assert (facts["MinimumOSVersion"], facts["CFBundleSupportedPlatforms"]) == ("14.0", [platform_name])
        assert files[f"{root}/{library['LibraryIdentifier']}/{library['BinaryPath']}"].startswith(b"\xcf\xfa\xed\xfe")
        assert f'umbrella header "{device.name}.h"' in files[f"{folder}/Modules/module.modulemap"].decode()
        headers = {name.rpartition("/")[2] for name in files if name.startswith(f"{folder}/Headers/")}
        assert headers == {f"{device.name}.h", "pocketbert.h"}
        binary = tmp_path / root / library["LibraryIdentifier"] / library["BinaryPath"]
        target = TARGETS["arm64-ios-simulator" if platform_name.endswith("Simulator") else "arm64-ios"]
        assert check_dylib(binary, target, device.name)
        # As Swift's compiler reads it: clang's module, by its map.
        options = ["-fmodules", f"-fmodules-cache-path={tmp_path / 'modules'}", "-F", str(binary.parent.parent)]
        run_compiler(find_toolchain(target), [*options, "-c", "app.m", "-o", "app.o"], tmp_path)


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        (("Darwin", "arm64"), "arm64-macos"),
        (("Windows", "AMD64"), "x86_64-windows"),
        (("Windows", "ARM64"), "arm64-windows"),
        (("Linux", "riscv64"), "riscv64-linux"),
        (("Darwin", "x86_64"), "Darwin on x86_64 has no target here; name one of arm64-android, "),
        (("FreeBSD", "amd64"), "FreeBSD on amd64 has no target here; name one of arm64-android, "),
    ],
)
def test_target_of_another_host(host: tuple[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: host[0])
    monkeypatch.setattr(platform, "machine", lambda: host[1])
    if " " in wanted:
        with pytest.raises(compile.CompileError, match=wanted):
            find_target("host")
        return
    target = find_target("host")
    assert target.name == wanted
    if host[0] != "Linux":
        assert runs_here(target)
    assert not runs_here(TARGETS["x86_64-linux"])


@pytest.mark.parametrize(
    ("name", "file", "install"),
    [
        ("x86_64-windows", "m.dll", ""),
        ("arm64-macos", "libm.dylib", "@rpath/libm.dylib"),
        ("arm64-ios", "libm.dylib", "@rpath/m.framework/m"),
        ("riscv64-linux", "libm.so", ""),
    ],
)
def test_names_of_files(name: str, file: str, install: str) -> None:
    assert TARGETS[name].library_name("m") == file
    assert not install or TARGETS[name].install_name(file) == install


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "arm64-macos", "verify": True}, "arm64-macos libraries run here only with a machine with macOS 11"),
        ({"target": "arm64-windows", "verify": True}, "run here only with a machine with Windows 10 and later on"),
        ({"target": "x86_64-windows", "verify": True}, "x86_64-windows libraries run here only with Wine on x86-64"),
        ({"target": "riscv64-linux", "verify": True}, r"only with qemu-riscv64 \(Debian package qemu-user\)"),
        (
            {"target": "arm64-android", "verify": True},
            r"only with qemu-aarch64 \(Debian package qemu-user\): install it",
        ),
        ({"target": "wasm32", "verify": True}, r"only with Node.js 20 or later \(Debian package nodejs\): install it"),
        (
            {"target": "ios"},
            "--target ios is one archive for all: give --package xcframework, or name one of arm64-ios",
        ),
        ({"target": "ios", "cpu": "armv8.0"}, "--target ios is for several CPUs: leave --cpu out"),
        ({"target": "x86_64-linux", "package": "xcframework"}, "x86_64-linux is not iOS; choose --target ios"),
        ({"target": "arm64-macos", "sanitize": "address"}, "arm64-macos libraries do not run on this machine"),
        ({"target": "riscv64-linux", "cpu": "cortex-a76"}, "choose one of rv64gc, rv64gcv"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_done(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    node.command.cache_clear()
    with pytest.raises(compile.CompileError, match=message):
        compile.build("mobilebert", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    node.command.cache_clear()


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_node_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = program(tmp_path / "node", "echo v12.22.5")
    monkeypatch.setattr(shutil, "which", lambda name: old)
    node.command.cache_clear()
    with pytest.raises(
        compile.CompileError, match=r"Node.js 20 or later \(Debian.*\), and not with v12.22.5: install it$"
    ):
        compile.build("mobilebert", target="wasm32", verify=True, out=tmp_path / "out")
    node.command.cache_clear()


@pytest.mark.skipif(bool(qemu.missing()), reason=f"needs {qemu.missing()}")
def test_qemu_that_knows_no_such_core_is_named_and_not_the_library(built: Callable, sample: Sample) -> None:
    artifact = built("arm64-ios")
    facts = replace(read_manifest(artifact), target="arm64-linux")
    with (
        qemu.QemuRunner("cortex-a99") as runner,
        pytest.raises(
            RunnerError, match=r"^qemu-aarch64: unable to find CPU model .*: -cpu cortex-a99 takes qemu 7.2 or"
        ),
    ):
        runner.outputs(artifact / facts.library, facts, [sample])
