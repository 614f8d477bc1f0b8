"""A static model of a core: each instruction's count under Bochs, and what llvm-mca makes of its place in the pipeline.

An instruction that ran belongs to a block: a straight run without a jump, executed so often. llvm-mca gives a block's
cycles when it follows itself, from LLVM's table of the core's ports and latencies; every load hits the first-level
cache, every jump is foreseen, and one block's tail never overlaps the next block's head. So caches and memory count for
nothing here: these are estimates that compare one kernel's instructions with another's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from elftools.elf.elffile import ELFFile

from compile.artifact.manifest import LibraryFacts
from compile.running.runners.base import Device, Execution, Runner, RunnerError
from compile.targets import TARGETS
from tune.runners.bochs import AVX2_CPU, AVX512_CPU, Machine

# For each CPU that is compiled for, what Bochs calls a processor that has it, and what LLVM calls that core.
CORES = {"x86-64-v3": (AVX2_CPU, "haswell"), "x86-64-v4": (AVX512_CPU, "skylake-avx512")}
TURNS = 100
JUMP = re.compile(r"(j|call|ret|b\.|cbn?z|tbn?z)")


class CyclesRunner(Runner):
    """x86-64 libraries. Needs Bochs and LLVM (Debian packages bochs, bochs-term and llvm)."""

    estimate = True
    unit = "M cycles"

    def __init__(self) -> None:
        for program in ("llvm-mca", "llvm-objdump"):
            if not shutil.which(program):
                raise RunnerError(f"{program} was not found: install LLVM (Debian package llvm)")
        self.slots = len(os.sched_getaffinity(0))
        self._machine = Machine()

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        """One inference on one core, whatever `runs` and `threads` say. A cycle is taken for a nanosecond."""
        if TARGETS[facts.target].arch != "x86_64":
            raise RunnerError(f"{library.name} is for {facts.target}: only x86-64 is estimated here")
        cpu, core = CORES[facts.cpu]
        result = self._machine.run(library, facts.name, inputs, counted=True, cpu=cpu, timeout=10 * timeout)
        blocks = executed_blocks(library, result.counts)
        cycles = estimated_cycles([block for block, _ in blocks], "x86_64", core)
        total = sum(each * count for each, (_, count) in zip(cycles, blocks, strict=True))
        return Execution((total / 1e6,), result.outputs, Device(describe(cpu, core), (0,)))

    def close(self) -> None:
        self._machine.close()


def describe(cpu: str, core: str) -> str:
    return f"Bochs {cpu}, instructions counted; llvm-mca -mcpu={core}, caches not modelled, 1 ns a cycle"


def executed_blocks(library: Path, counts: Counter[int]) -> list[tuple[list[str], int]]:
    """Blocks of instructions and how often each ran. counts: of each instruction, by its offset in the file."""
    with library.open("rb") as file:
        (code,) = (s for s in ELFFile(file).iter_segments("PT_LOAD") if s["p_flags"] & 1)
        shift = code["p_vaddr"] - code["p_offset"]
    command = ["llvm-objdump", "-d", "--no-show-raw-insn", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    blocks: list[tuple[list[str], int]] = []
    open_block = False
    for address, instruction in re.findall(r"^\s*([0-9a-f]+):\s+(.+)$", listing, re.MULTILINE):
        count = counts[int(address, 16) - shift]
        if not count:
            open_block = False
            continue
        if not open_block or blocks[-1][1] != count:
            blocks.append(([], count))
        blocks[-1][0].append(re.sub(r"\s*(#|<).*", "", instruction))
        open_block = not JUMP.match(instruction)
    return blocks


def estimated_cycles(blocks: list[list[str]], arch: str, core: str) -> list[float]:
    """llvm-mca's cycles of one turn of each block, for LLVM's `core` of `arch`. A jump by itself takes one."""
    straight = [[line for line in block if not JUMP.match(line)] for block in blocks]
    comment = "//" if arch == "aarch64" else "#"
    regions = [
        "\n".join([f"{comment} LLVM-MCA-BEGIN", *lines, f"{comment} LLVM-MCA-END"]) for lines in straight if lines
    ]
    command = ["llvm-mca", f"-mtriple={arch}", f"-mcpu={core}", f"-iterations={TURNS}"]
    done = subprocess.run(command, input="\n".join(regions) + "\n", capture_output=True, text=True, check=False)
    counts = [int(cycles) / TURNS for cycles in re.findall(r"Total Cycles:\s+(\d+)", done.stdout)]
    if len(counts) != len(regions):
        raise RunnerError(f"llvm-mca failed: {(done.stderr.splitlines() or ['no output'])[0]}")
    return [counts.pop(0) if lines else 1.0 for lines in straight]
