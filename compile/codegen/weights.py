"""Weights -> one binary file that the assembler takes in as it is, so that loading a library copies nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compile.plan import Plan

# Page-aligned for the largest page in use (Android's 16 KiB): the pages hold weights alone and stay shared and clean.
SECTION_ALIGNMENT = 16384

ASSEMBLER_SOURCE = """__asm__(".section .rodata.pb_weights,\\"a\\",%progbits\\n"
        ".balign {alignment}\\n"
        ".globl pb_weights\\n"
        ".hidden pb_weights\\n"
        "pb_weights:\\n"
        ".incbin \\"{file}\\"\\n");
"""


def write_weights(plan: Plan, path: Path) -> None:
    """Each weight at its place's offset, already in the order in which its kernel reads it."""
    with path.open("wb") as file:
        for weight in plan.program.weights:
            assert weight.data is not None
            file.seek(plan.place(weight).offset)
            file.write(np.ascontiguousarray(weight.data).tobytes())
        file.truncate(max(plan.weight_bytes, 64))


def assembler_source(path: Path) -> str:
    return ASSEMBLER_SOURCE.format(alignment=SECTION_ALIGNMENT, file=path.as_posix())
