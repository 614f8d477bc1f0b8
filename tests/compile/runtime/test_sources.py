"""The runtime's sources read by themselves: each compiles alone, and what they share with Python is in one place."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compile.linking.link import WARNINGS, find_toolchain, run_compiler
from compile.running.runners.qemu import ARM64_ROOT
from compile.running.verify import can_run
from compile.runtime import INCLUDE, RUNTIME, SRC, TOOLS
from compile.targets import CPUS, TARGETS, Target, host_cpu_flags

HERE = Path(__file__).parent
SOURCES = [*sorted(SRC.glob("*.c")), *sorted(TOOLS.glob("*.c"))]


@pytest.mark.parametrize("target", ["arm64-android", "x86_64-linux"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_source_compiles_alone(source: Path, target: str, tmp_path: Path) -> None:
    """With the two folders of headers and nothing that a build generates: as an editor opens it."""
    triple = TARGETS[target].zig_triple.replace("android", "gnu")  # the tools use libc's headers
    options = (RUNTIME / "compile_flags.txt").read_text().split()
    assert options == ["-std=c11", "-Wall", "-Wextra", "-Iinclude", "-Isrc"]
    command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, *options, "-Werror", "-c", str(source)]
    command += ["-o", str(tmp_path / "source.o")]
    environment = os.environ | {"ZIG_LOCAL_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        command, cwd=RUNTIME, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")


def table(arch: str) -> list[str]:
    """The names in cpu_features.h, in order."""
    text = (SRC / "cpu_features.h").read_text()
    body = text.partition(f"#define PB_{'ARM' if arch == 'aarch64' else 'X86'}_FEATURES(X)")[2].partition("\n\n")[0]
    return re.findall(r"^ *X\((\w+),", body, re.MULTILINE)


@pytest.mark.parametrize("cpu", CPUS.values(), ids=lambda cpu: cpu.name)
def test_every_feature_that_a_cpu_requires_is_in_the_runtimes_table(cpu: object) -> None:
    assert isinstance(cpu, type(CPUS["armv8.0"]))
    assert set(cpu.required) <= set(table(cpu.arch))


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, tuple[bool, str]]]:
    """features(target, emulator): by name, whether the runtime sees the feature, and what it says where it does not."""
    folder = tmp_path_factory.mktemp("cpu")

    def run(target: Target, *emulator: str) -> dict[str, tuple[bool, str]]:
        options = [
            "-O1",
            *WARNINGS,
            f"-I{SRC}",
            f"-I{INCLUDE}",
            str(HERE / "cpu.c"),
            str(SRC / "cpu.c"),
            "-o",
            target.arch,
        ]
        run_compiler(find_toolchain(target), options, folder)
        done = subprocess.run([*emulator, f"./{target.arch}"], cwd=folder, capture_output=True, text=True, check=True)
        rows = [line.split(" ", 2) for line in done.stdout.splitlines()]
        return {name: (has == "1", message) for name, has, message in rows}

    return run


def test_runtime_sees_the_features_that_linux_sees(host: Target, features: Callable) -> None:
    seen = features(host)
    assert list(seen) == table(host.arch)
    for name, (has, message) in seen.items():
        assert has == (name in host_cpu_flags()), name
        assert message.startswith(f"open: this CPU lacks {name}, ")


@pytest.mark.skipif(
    can_run(TARGETS["arm64-linux"]) is not None, reason="needs qemu-user and libc6-arm64-cross (Debian)"
)
@pytest.mark.parametrize("name", ["cortex-a53", "cortex-a76", "cortex-x2"])
def test_runtime_sees_the_features_of_an_emulated_core(name: str, features: Callable) -> None:
    cpu = CPUS[name]
    seen = features(TARGETS["arm64-linux"], "qemu-aarch64", "-cpu", cpu.qemu_cpu, "-L", str(ARM64_ROOT))
    assert list(seen) == table("aarch64")
    assert {feature for feature, (has, _) in seen.items() if has} == set(cpu.required)
