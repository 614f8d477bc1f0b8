"""The program that measures a model: a library's own objects with runtime/tools/benchmark.c and musl, static."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compile.codegen.escape import c_string
from compile.errors import CompileError
from compile.linking.link import WARNINGS, inside, run_compiler, zig
from compile.runtime import INCLUDE, TOOLS
from compile.targets import Target

# What zig calls a Linux with musl.
MUSL = {arch: f"{arch}-linux-musl" for arch in ("aarch64", "riscv64", "x86_64")} | {"arm": "arm-linux-musleabi"}


def musl(target: Target) -> str:
    """What zig calls the target's processor with musl. Raises CompileError where there is no such program for it."""
    if target.arch not in MUSL or "linux" not in target.triple:
        raise CompileError(f"--package benchmark: it is a program for Linux and Android, not for {target.name}")
    return MUSL[target.arch]


def link_benchmark(
    target: Target, folder: Path, objects: list[Path], name: str, facts: Mapping[str, str], output: Path
) -> None:
    """Link the library's `objects` into the program `output`; compilers run in `folder`.

    facts: what the program states of the model, by the names of its macros. Raises CompileError.
    """
    macros = [f"-D{key}={c_string(value)}" for key, value in facts.items()]
    options = [
        "-O2",
        "-static",
        "-s",
        *target.c_options,
        *WARNINGS,
        f"-I{inside(INCLUDE, folder)}",
        f"-DPB(x)={name}_##x",
    ]
    options.append("-Wl,-z,stack-size=1048576")  # musl's threads have 128 KiB, those of Android and glibc a mebibyte
    sources = [inside(path, folder) for path in (TOOLS / "benchmark.c", *objects)]
    run_compiler(
        zig("-target", musl(target)), [*options, *macros, *sources, "-lm", "-o", inside(output, folder)], folder
    )
