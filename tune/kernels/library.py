"""One kernel as a library with the interface of a compiled model, so that any runner can run it.

A run calls the kernel `task.repeats` times, each time with another copy of the weights: what an inference streams from
memory must not lie in a cache here.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.artifact.manifest import LibraryFacts, Tensor, toolchain_versions
from compile.codegen.objects import compile_kernels
from compile.kernels.contract import ALIGNMENT, SLACK
from compile.kernels.tiles import TileConfig
from compile.linking.link import WARNINGS, find_toolchain, run_compiler
from compile.runtime import INCLUDE
from compile.targets import Target
from pocketbert.numerics import relative_error
from tune.kernels.tasks import Buffer, Task, inputs_and_answer

HARNESS = Path(__file__).with_name("harness.c")
TOLERANCE = 1e-4


def compile_harness(task: Task, target: Target, folder: Path, repeats: int | None = None) -> Path:
    """The object file that is linked with every candidate of `task`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.h").write_text(task_header(task, repeats or task.repeats))
    shutil.copy(INCLUDE / "pocketbert.h", folder)
    toolchain = find_toolchain(target)
    options = ["-O2", "-fPIC", "-fno-builtin", "-fno-sanitize=undefined", *WARNINGS, "-I."]
    run_compiler(toolchain, [*options, "-c", str(HARNESS), "-o", "harness.o"], folder)
    return folder / "harness.o"


def build_candidate(task: Task, tile: TileConfig, target: Target, harness: Path, folder: Path) -> Path:
    """Compile the kernel with `tile` and link it with the harness. Raises CompileError."""
    folder.mkdir(parents=True, exist_ok=True)
    compile_kernels({"kernel": task.kernel.with_tile(tile)}, target, folder)
    library = folder / "libkernel.so"
    arguments = ["-shared", "-nostdlib", "-Wl,-z,undefs", "-Wl,-z,max-page-size=16384", "-Wl,--hash-style=gnu"]
    objects = [os.path.relpath(harness, folder), "kernel.o"]  # zig cannot read every path of a temporary folder
    run_compiler(find_toolchain(target), [*arguments, *objects, "-o", library.name], folder)
    (folder / "kernel.o").unlink()
    return library


def describe(task: Task, target: Target) -> LibraryFacts:
    """What runners want to know of a library."""

    def tensors(role: str) -> tuple[Tensor, ...]:
        return tuple(Tensor(b.name, tuple(b.shape), "float32") for b in task.buffers if b.role == role)

    return LibraryFacts(
        name="kernel",
        target=target.name,
        cpu=target.cpu.name,
        inputs=tensors("input"),
        outputs=tensors("output"),
        linker=find_toolchain(target).description,
        versions=toolchain_versions(),
    )


def error_of(task: Task, tile: TileConfig, outputs: dict[str, NDArray[Any]]) -> float:
    """Largest difference from float64 as a share of the answer's range; infinite where anything is not finite."""
    _, answer = inputs_and_answer(task, tile)
    return relative_error(outputs, {"y": np.asarray(answer)})


def task_header(task: Task, repeats: int) -> str:
    """`task.h`: buffers, their descriptions, and the call, for harness.c."""
    lines, calls, prototype = [f"enum {{ REPEATS = {repeats} }};"], [], []
    for argument in task.arguments:
        if isinstance(argument, int):
            calls.append(str(argument))
            prototype.append("int32_t")
            continue
        copies = repeats if argument.name == "w" and not task.hot else 1
        lines.append(f"enum {{ {argument.name}_BYTES = {_padded(argument)} }};")
        lines.append(f"static _Alignas({ALIGNMENT}) char {argument.name}[{copies}][{argument.name}_BYTES];")
        calls.append(f"{argument.name}[{'turn' if copies > 1 else '0'}]")
        prototype.append("void *")
    for role in ("input", "output"):
        chosen = [b for b in task.buffers if b.role == role]
        lines.append(f"static const pocketbert_info {role}s[] = {{")
        for b in chosen:
            dims = ", ".join(map(str, b.shape))
            info = f'{{"{b.name}", POCKETBERT_FLOAT32, {len(b.shape)}, {{{dims}}}, -1, 0, 0, {4 * b.size}}}'
            lines.append(f"    {info},")
        lines.append("};")
        lines.append(f"static const memory {role}_memory[] = {{")
        lines += [f"    {{{b.name}[0], sizeof {b.name} / {b.name}_BYTES, {b.name}_BYTES}}," for b in chosen]
        lines.append("};")
    lines.append(f"void kernel({', '.join(prototype)});")
    lines.append(f"static void call(int32_t turn)\n{{\n    (void)turn;\n    kernel({', '.join(calls)});\n}}")
    return "\n".join(lines) + "\n"


def _padded(buffer: Buffer) -> int:
    """Bytes of a buffer: whole cache lines, and one to spare for a vector read past the end."""
    return -(-4 * buffer.size // ALIGNMENT) * ALIGNMENT + SLACK
