"""The runtime's sources read by themselves: each compiles alone, and what they share with Python is in one place."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compile.cpus import CPUS
from compile.linking.link import WARNINGS, find_toolchain, run_compiler, zig
from compile.running.arrays import TYPE_CODES
from compile.running.runners.qemu import ARM64_ROOT
from compile.running.verify import can_run
from compile.runtime import INCLUDE, RUNTIME, SRC, TOOLS
from compile.targets import TARGETS, Target, host_cpu_flags

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


# Each constant that is declared by hand, and what the system's headers call it.
CONSTANTS = {
    "PROT_NONE": "PROT_NONE",
    "PROT_READ_WRITE": "(PROT_READ | PROT_WRITE)",
    "MAP_PRIVATE_ANONYMOUS": "(MAP_PRIVATE | MAP_ANONYMOUS)",
    "MAP_POPULATE": "MAP_POPULATE",
    "AT_FDCWD": "AT_FDCWD",
    "AT_HWCAP": "AT_HWCAP",
    "AT_HWCAP2": "AT_HWCAP2",
    "O_RDONLY_CLOEXEC": "(O_RDONLY | O_CLOEXEC)",
    "CLOCK_MONOTONIC": "CLOCK_MONOTONIC",
    "FUTEX_WAIT_PRIVATE": "(FUTEX_WAIT | FUTEX_PRIVATE_FLAG)",
    "FUTEX_WAKE_PRIVATE": "(FUTEX_WAKE | FUTEX_PRIVATE_FLAG)",
}
HEADERS = ["fcntl.h", "linux/time.h", "linux/futex.h", "sys/auxv.h", "sys/mman.h", "sys/syscall.h"]
HWCAPS = {
    "dotprod": ("HWCAP", "HWCAP_ASIMDDP"),
    "fp16": ("HWCAP", "HWCAP_FPHP | HWCAP_ASIMDHP"),
    "i8mm": ("HWCAP2", "HWCAP2_I8MM"),
    "bf16": ("HWCAP2", "HWCAP2_BF16"),
}


@pytest.mark.parametrize("triple", ["aarch64-linux-gnu", "x86_64-linux-gnu", "arm-linux-gnueabi", "riscv64-linux-gnu"])
def test_what_is_declared_by_hand_is_what_the_systems_headers_say(triple: str, tmp_path: Path) -> None:
    names = set(re.findall(r"\bPB_(\w+) = ", (SRC / "platform_linux.c").read_text()))
    if not triple.startswith("arm-"):
        names -= {"SYS_MMAP2", "SYS_CLOCK_GETTIME"}
    theirs = CONSTANTS | {name: f"__NR_{name[4:].lower()}" for name in names if name.startswith("SYS_")}
    assert theirs.keys() == names
    lines = [f"#include <{header}>" for header in HEADERS]
    # What the headers of libc declare differently is of no interest here.
    lines += ["#define clock_gettime hidden", '#include "cpu_features.h"', '#include "platform_linux.c"']
    lines += [f'_Static_assert(PB_{ours} == {system}, "{ours}");' for ours, system in theirs.items()]
    if triple.startswith("aarch64"):
        lines += [f"enum {{ {word}_has_{name} }};" for name, (word, _) in HWCAPS.items()]
        lines += [f"#define BITS_{name} ({bits})" for name, (_, bits) in HWCAPS.items()]
        lines += ["#define SAME(name, word, bits) _Static_assert((bits) == BITS_##name && !word##_has_##name, #name);"]
        lines += ["PB_ARM_FEATURES(SAME)"]
    elif triple.startswith("x86_64"):
        lines += ["#include <cpuid.h>"]
        lines += [f"#define BIT_{name} bit_{name.upper()}" for name in table("x86_64")]
        lines += ["#define SAME(name, word, bit, registers) _Static_assert(1u << (bit) == BIT_##name, #name);"]
        lines += ["PB_X86_FEATURES(SAME)"]
    (tmp_path / "compare.c").write_text("\n".join(lines) + "\n")
    compiler = zig("-target", triple)
    run_compiler(compiler, ["-D_GNU_SOURCE", "-Wno-unused", f"-I{SRC}", "-c", "compare.c", "-o", "o"], tmp_path)


def table(arch: str) -> list[str]:
    """The names in cpu_features.h, in order."""
    text = (SRC / "cpu_features.h").read_text()
    body = text.partition(
        f"#define PB_{ {'aarch64': 'ARM', 'arm': 'ARM32', 'riscv64': 'RISCV', 'x86_64': 'X86'}[arch] }_FEATURES(X)"
    )[2].partition("\n\n")[0]
    return re.findall(r"^ *X\((\w+),", body, re.MULTILINE)


@pytest.mark.parametrize("cpu", [cpu for cpu in CPUS.values() if cpu.required], ids=lambda cpu: cpu.name)
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
            str(SRC / "platform_linux.c"),
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


def test_feature_counts_where_the_operating_system_saves_its_registers(host: Target, tmp_path: Path) -> None:
    """XCR0's bits: 1 and 2 are the 256-bit registers, 5 to 7 the 512-bit ones and their masks."""
    if host.arch != "x86_64":
        pytest.skip("x86-64's rules")
    (tmp_path / "saved.c").write_text(
        '#include <stdio.h>\n#include "cpu.c"\n'
        "int main(void)\n{\n"
        "    uint32_t r[4 * LEAVES] = {0}, saved[] = {0, 2, 4, 6, 0x26, 0x66, 0xa6, 0xc6, 0xe0, 0xe6, ~0u};\n"
        "    if (features_of(r, ~0u))\n        return 1;\n"
        "    for (int i = 0; i < 4 * LEAVES; i++)\n        r[i] = ~0u;\n"
        "    for (unsigned i = 0; i < sizeof saved / sizeof *saved; i++)\n"
        '        printf("%#x %d\\n", saved[i], __builtin_popcount(features_of(r, saved[i])));\n}\n'
    )
    sources = ["saved.c", str(SRC / "platform_linux.c")]
    run_compiler(find_toolchain(host), [f"-I{SRC}", f"-I{INCLUDE}", *sources, "-o", "saved"], tmp_path)
    done = subprocess.run(["./saved"], cwd=tmp_path, capture_output=True, text=True, check=True)
    every = len(table("x86_64"))
    wide = sum(name.startswith("avx512") for name in table("x86_64"))
    seen = {int(word, 16): int(count) for word, count in (line.split() for line in done.stdout.splitlines())}
    assert seen == {
        saved: every if saved & 0xE6 == 0xE6 else every - wide if saved & 6 == 6 else 1 for saved in seen
    }  # fmt: skip
    assert len(seen) == 11


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user (Debian)")
def test_cpu_whose_operating_system_saves_no_registers_has_no_feature_that_needs_them(features: Callable) -> None:
    """There xgetbv would be an illegal instruction."""
    seen = features(TARGETS["x86_64-linux"], "qemu-x86_64", "-cpu", "max,-xsave")
    assert [name for name, (has, _) in seen.items() if has] == ["sse42"]
    seen = features(TARGETS["x86_64-linux"], "qemu-x86_64", "-cpu", "max")
    assert seen["avx2"][0]


def test_numbers_of_the_interface_stay_as_they_are() -> None:
    """Programs and libraries of different builds meet: what changes here raises POCKETBERT_ABI."""
    header = (INCLUDE / "pocketbert.h").read_text()
    numbers = {name: int(value) for name, value in re.findall(r"\bPOCKETBERT_(\w+) = (\d+)", header)}
    types = {name.upper(): code for name, code in TYPE_CODES.items()}
    errors = ["ARGUMENT", "SHAPE", "RANGE", "MEMORY", "CPU", "THREAD", "BUSY", "LIBRARY", "VOCABULARY", "FORK", "TASK"]
    errors += ["LONG", "CANCELLED"]
    assert numbers == {"ABI": 2, "OK": 0, "INT8": 5, "BITS": 6} | types | {
        f"ERROR_{name}": 1 + i for i, name in enumerate(errors)
    }
    assert types == {"FLOAT32": 1, "INT64": 2, "INT32": 3, "BOOL": 4}


@pytest.mark.skipif(
    can_run(TARGETS["arm64-linux"]) is not None, reason="needs qemu-user and libc6-arm64-cross (Debian)"
)
@pytest.mark.parametrize("name", ["cortex-a53", "cortex-a76", "cortex-x2"])
def test_runtime_sees_the_features_of_an_emulated_core(name: str, features: Callable) -> None:
    cpu = CPUS[name]
    seen = features(TARGETS["arm64-linux"], "qemu-aarch64", "-cpu", cpu.qemu_cpu, "-L", str(ARM64_ROOT))
    assert list(seen) == table("aarch64")
    assert {feature for feature, (has, _) in seen.items() if has} == set(cpu.required)


# As Windows' and Apple's own headers, which zig has, call what is declared by hand.
WINDOWS = {
    "MEM_COMMIT": "MEM_COMMIT",
    "MEM_RESERVE": "MEM_RESERVE",
    "MEM_RELEASE": "MEM_RELEASE",
    "PAGE_NOACCESS": "PAGE_NOACCESS",
    "PAGE_READWRITE": "PAGE_READWRITE",
    "PF_DOTPROD": "PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE",
    "PF_FP16": "PF_ARM_V82_FP16_INSTRUCTIONS_AVAILABLE",
    "PF_I8MM": "PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE",
    "PF_BF16": "PF_ARM_V86_BF16_INSTRUCTIONS_AVAILABLE",
}
APPLE = {
    "PROT_NONE": "PROT_NONE",
    "PROT_READ_WRITE": "(PROT_READ | PROT_WRITE)",
    "MAP_PRIVATE_ANONYMOUS": "(MAP_PRIVATE | MAP_ANON)",
    "CLOCK_UPTIME_RAW": "CLOCK_UPTIME_RAW",
    "QOS_CLASS_USER_INTERACTIVE": "QOS_CLASS_USER_INTERACTIVE",
}
CPU_SET = "offsetof(SYSTEM_CPU_SET_INFORMATION, CpuSet."
FOREIGN = {
    "arm64-windows": (
        WINDOWS,
        ["windows.h"],
        [
            "sizeof(struct cpu_set) == sizeof(SYSTEM_CPU_SET_INFORMATION) && INFINITE == PB_INFINITE",
            f"offsetof(struct cpu_set, group) == {CPU_SET}Group)",
            f"offsetof(struct cpu_set, index) == {CPU_SET}LogicalProcessorIndex)",
            f"offsetof(struct cpu_set, efficiency_class) == {CPU_SET}EfficiencyClass)",
        ],
    ),
    "arm64-macos": (
        APPLE,
        ["sys/mman.h", "time.h", "pthread.h", "pthread/qos.h"],
        ["sizeof gate.mutex >= sizeof(pthread_mutex_t) && sizeof gate.condition >= sizeof(pthread_cond_t)"],
    ),
}


@pytest.mark.parametrize("target", FOREIGN)
def test_what_is_declared_by_hand_for_windows_and_apple(target: str, tmp_path: Path) -> None:
    """Types and numbers; functions are declared there with types that only their own headers have."""
    names, headers, more = FOREIGN[target]
    text = (SRC / f"platform_{'windows' if 'windows' in target else 'apple'}.c").read_text()
    assert set(re.findall(r"\bPB_(\w+) = ", text)) == set(names)
    ours = re.findall(r"^enum \{ PB_.*?\};|^struct cpu_set \{.*?^\};|^static struct \{.*?^\} gate;|^#define PB_INF.*?$",
                      text, re.MULTILINE | re.DOTALL)  # fmt: skip
    lines = [f"#include <{header}>" for header in ("stdatomic.h", "stddef.h", "stdint.h", *headers)]
    lines += [*ours, *(f'_Static_assert(PB_{name} == {theirs}, "{name}");' for name, theirs in names.items())]
    lines += [f'_Static_assert({claim}, "type");' for claim in more]
    (tmp_path / "compare.c").write_text("\n".join(lines) + "\n")
    run_compiler(find_toolchain(TARGETS[target]), ["-w", "-c", "compare.c", "-o", "o"], tmp_path)
