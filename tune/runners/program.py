"""The static program that runs libraries on devices, built with zig: no NDK, no libc of the device's."""

from __future__ import annotations

from pathlib import Path

from compile.linking.link import WARNINGS, find_toolchain, run_compiler
from compile.runtime import INCLUDE
from compile.targets import Target, find_target

SOURCE = Path(__file__).with_name("device.c")
OPTIONS = ["-O2", "-fno-builtin", "-fno-stack-protector", "-fno-sanitize=undefined"]


def build_device_program(folder: Path) -> Path:
    """`folder`/device, for any arm64 Linux or Android. Raises CompileError."""
    target = find_target("arm64-linux")
    zig = find_toolchain(target).with_triple("aarch64-linux-none")
    program = folder / "device"
    run_compiler(zig, ["-nostdlib", "-static", compile_device(target, folder), "-o", program.name], folder)
    return program


def compile_device(target: Target, folder: Path) -> str:
    """The program's object file in `folder`, not linked: it lacks nothing but a Linux around it."""
    options = [*OPTIONS, *WARNINGS, "-I", str(INCLUDE)]
    run_compiler(find_toolchain(target), [*options, "-c", str(SOURCE), "-o", "device.o"], folder)
    return "device.o"
