"""Weights -> one binary file that the assembler takes in as it is, so that loading a library copies nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compile.codegen.escape import identifier
from compile.kernels.contract import ALIGNMENT
from compile.planning.plan import Plan

# Page-aligned for the largest page in use (Android's 16 KiB): the pages hold weights alone and stay shared and clean.
SECTION_ALIGNMENT = 16384

ASSEMBLER_SOURCE = """#if defined(__APPLE__)
__asm__(".section __TEXT,__const\\n"
        ".balign {alignment}\\n"
        ".globl _{symbol}\\n"
        ".private_extern _{symbol}\\n"
        "_{symbol}:\\n"
        ".incbin \\"{symbol}.bin\\"\\n");
#elif defined(_WIN32)
__asm__(".section .rdata,\\"dr\\"\\n"
        ".balign 4096\\n" /* Windows' pages, on every processor */
        ".globl {symbol}\\n"
        "{symbol}:\\n"
        ".incbin \\"{symbol}.bin\\"\\n");
#else
#ifdef __wasm__
__asm__(".section .rodata.{symbol},\\"\\",@\\n.type {symbol},@object\\n"
#else
__asm__(".section .rodata.{symbol},\\"a\\",%progbits\\n"
#endif
        ".balign {alignment}\\n"
        ".globl {symbol}\\n"
        ".hidden {symbol}\\n"
        "{symbol}:\\n"
        ".incbin \\"{symbol}.bin\\"\\n"
        ".size {symbol}, .-{symbol}\\n");
#endif
"""


def write_weights(plan: Plan, path: Path) -> None:
    """Each weight at its place's offset, already in the order in which its kernel reads it."""
    with path.open("wb") as file:
        for weight in plan.program.weights:
            assert weight.data is not None
            file.seek(plan.place(weight).offset)
            file.write(np.ascontiguousarray(weight.data).tobytes())
        file.truncate(max(plan.weight_bytes, ALIGNMENT))


def assembler_source(symbol: str, alignment: int = SECTION_ALIGNMENT) -> str:
    """C that puts the file `<symbol>.bin` of the folder where it is compiled into read-only data as `symbol`."""
    return ASSEMBLER_SOURCE.format(symbol=identifier(symbol), alignment=alignment)


def reserving_source(symbol: str, size: int) -> str:
    """C that reserves `size` zeros of memory as `symbol`: JavaScript reads a file into them."""
    return f"_Alignas({SECTION_ALIGNMENT}) char {identifier(symbol)}[{size}];\n"
