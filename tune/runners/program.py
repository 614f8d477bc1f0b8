"""The static program that runs libraries on arm64 devices, built with zig: no NDK, no libc of the device's."""

from __future__ import annotations

from pathlib import Path

from compile.link import RUNTIME, WARNINGS, find_toolchain, run_compiler
from compile.targets import find_target

SOURCE = Path(__file__).with_name("device.c")


def build_device_program(folder: Path) -> Path:
    """`folder`/device, for any arm64 Linux or Android. Raises CompileError."""
    zig = find_toolchain(find_target("arm64-linux"))
    options = ["-O2", *WARNINGS, "-fno-builtin", "-fno-stack-protector", "-fno-sanitize=undefined"]
    options += ["-mno-outline-atomics", "-I", str(RUNTIME)]
    run_compiler(zig, [*options, "-c", str(SOURCE), "-o", "device.o"], folder)
    program = folder / "device"
    run_compiler(
        zig.with_triple("aarch64-linux-none"), ["-nostdlib", "-static", "device.o", "-o", str(program)], folder
    )
    return program
