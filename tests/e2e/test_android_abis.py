"""Android's other ABIs under emulation, on the oldest core and a newer one; and all of them in one archive."""

import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import compile
from compile.linking.link import find_toolchain, run_compiler
from compile.running.load import read_manifest
from compile.running.runners.qemu import EMULATORS, QemuRunner, command, missing
from compile.running.samples import random_samples
from compile.runtime import SRC
from compile.targets import ANDROID, TARGETS
from pocketbert.numerics import relative_error

BOUND = 1e-4
CORES = [("armv7-android", "cortex-a7"), ("x86_64-android", "Nehalem"), ("x86_64-android", "max")]


def require(target: str) -> None:
    if lacking := missing(TARGETS[target].arch):
        pytest.skip(f"needs {lacking}")


@pytest.fixture(scope="module")
def tiny(exported: Callable) -> Path:
    return exported("mobilebert-tiny", seq_len=16)


@pytest.mark.parametrize(("target", "core"), CORES)
def test_outputs_are_onnx_runtimes(
    target: str, core: str, tiny: Path, compiled: Callable, samples_and_answers: Callable
) -> None:
    require(target)
    artifact = compiled(tiny, target, seq_len=16)
    facts = read_manifest(artifact)
    samples, answers = samples_and_answers(tiny, artifact, count=2)
    with QemuRunner(core, TARGETS[target]) as runner:
        for threads in (1, 3):
            got, where = runner.outputs(artifact / facts.library, facts, samples, threads)
            assert core in where
            assert max(relative_error(g, wanted) for g, wanted in zip(got, answers, strict=True)) <= BOUND


def test_attention_of_whole_heads_norms_and_gelu(
    exported: Callable, compiled: Callable, samples_and_answers: Callable
) -> None:
    require("armv7-android")
    path = exported("distilbert-6l", seq_len=40)
    artifact = compiled(path, "armv7-android", seq_len=40)
    samples, answers = samples_and_answers(path, artifact, count=1)
    with QemuRunner(target=TARGETS["armv7-android"]) as runner:
        (got,), _ = runner.outputs(artifact / read_manifest(artifact).library, read_manifest(artifact), samples)
    assert relative_error(got, answers[0]) <= BOUND


def test_core_without_fused_multiply_add_is_refused(
    tiny: Path, compiled: Callable, samples_and_answers: Callable
) -> None:
    require("armv7-android")
    artifact = compiled(tiny, "armv7-android", seq_len=16)
    samples, _ = samples_and_answers(tiny, artifact, count=1)
    with (
        QemuRunner("cortex-a9", TARGETS["armv7-android"]) as runner,
        pytest.raises(compile.CompileError, match="this CPU lacks vfp4"),
    ):
        runner.outputs(artifact / read_manifest(artifact).library, read_manifest(artifact), samples)


def test_int8_of_every_level_of_x86_64(tiny: Path, tmp_path: Path) -> None:
    require("x86_64-android")
    built = compile.build(
        tiny, target="x86_64-android", precision="int8", seq_len=16, out=tmp_path / "out", verify=True
    ).manifest
    assert [check.where for check in built.verification] == [
        f"qemu-x86_64 -cpu {core}" for core in ("Nehalem", "max", "max")
    ]


def test_int8_on_32_bit_arm_computes_the_integers_of_64_bits(tmp_path: Path, tiny: Path) -> None:
    require("armv7-android")
    outputs = []
    for target in ("armv7-android", "host"):
        built = compile.build(tiny, target=target, precision="int8", seq_len=16, db="none", out=tmp_path / target)
        samples = random_samples(built.manifest, 2, seed=7)
        if target == "host":
            with compile.load(built.folder, threads=1) as library:
                outputs.append([library.run(sample) for sample in samples])
        else:
            assert any(kernel.precision == "int8" for kernel in built.manifest.kernels)
            with QemuRunner("cortex-a7", TARGETS[target]) as runner:
                outputs.append(runner.outputs(built.folder / built.manifest.library, built.manifest, samples)[0])
    for got, wanted in zip(*outputs, strict=True):
        assert all(np.array_equal(got[name], values) for name, values in wanted.items())


def product(path: Path) -> Path:
    """y = 2 x, with a fixed number of tokens."""
    weight = onnx.numpy_helper.from_array(2 * np.eye(16, dtype=np.float32), "w")
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 8, 16]) for n in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", infos[:1], infos[1:], [weight]
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK: Debian package default-jdk-headless")
def test_one_archive_for_all(tmp_path: Path) -> None:
    said: list[str] = []
    result = compile.build(
        product(tmp_path / "double.onnx"),
        target="android",
        package="aar",
        seq_len=8,
        out=tmp_path / "out",
        progress=lambda phase, _: said.append(phase),
    )
    package = result.manifest.package
    assert package is not None
    assert result.manifest.target == "arm64-android"
    assert [(one.abi, one.target) for one in package.libraries] == [(TARGETS[t].abi, t) for t in ANDROID]
    assert {"link, armeabi-v7a", "link, x86_64", "link"} <= set(said)
    with zipfile.ZipFile(result.folder / package.file) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}
    assert set(held) == {f"jni/{one.abi}/libdouble.so" for one in package.libraries}
    for one in package.libraries:
        data = held[f"jni/{one.abi}/libdouble.so"]
        assert len(data) == one.bytes
        assert data[4] == (1 if one.abi == "armeabi-v7a" else 2)  # the class: 32 or 64 bits


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "android"}, "give --package aar, or name one of arm64-android"),
        ({"target": "android", "package": "wheel"}, "give --package aar, or name one of arm64-android"),
        ({"target": "android", "package": "aar", "cpu": "armv7"}, "leave --cpu out"),
        ({"target": "armv7-android", "cpu": "cortex-a76"}, "choose one of armv7"),
    ],
)
def test_what_cannot_be_asked_of_all(options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(compile.CompileError, match=re.escape(words)):
        compile.build("mobilebert", out=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_of_64_bits_become_the_nearest_float(tmp_path: Path) -> None:
    """There is no instruction for it on 32-bit Arm: arm32.c."""
    require("armv7-android")
    rng = np.random.default_rng(0)
    numbers = [0, 1, -1, 2**24 + 1, 2**53 - 1, 2**53 + 1, 2**63 - 1, -(2**63), 2**62 + 2**38, 2**62 + 2**38 + 1]
    numbers += [
        int(n) >> int(s) for n, s in zip(rng.integers(-(2**63), 2**63 - 1, 200), rng.integers(0, 63, 200), strict=True)
    ]
    lines = [
        "#include <stdio.h>",
        "#include <stdint.h>",
        f"int64_t n[] = {{{', '.join(f'{n}LL' if n > -(2**63) else 'INT64_MIN' for n in numbers)}}};",
    ]
    lines += ["float __floatdisf(int64_t);", "int main(void) { for (unsigned i = 0; i < sizeof n / 8; i++)"]
    lines += ['printf("%a\\n", (double)__floatdisf(n[i])); }']
    (tmp_path / "main.c").write_text("\n".join(lines))
    zig = find_toolchain(TARGETS["armv7-android"]).with_triple("arm-linux-gnueabi")
    run_compiler(zig, ["-mcpu=cortex_a7", "-O1", "main.c", str(SRC / "arm32.c"), "-o", "main"], tmp_path)
    done = subprocess.run(
        [*command("cortex-a7", "-L", str(EMULATORS["arm"].root), arch="arm"), "./main"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    got = [np.float32(float.fromhex(line)) for line in done.stdout.split()]
    assert got == [np.float32(np.int64(n)) for n in numbers]
