"""Instruction-set levels: one plan and one copy of the weights, and a set of kernels for each level of CPU.

Which set runs is decided when a library is opened. A level costs its code and nothing else, so its kernels read the
weights as the lowest level's do: panels of the same width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from compile.cpus import Cpu
from compile.kernels.contract import KernelSpec
from compile.program import Program
from compile.targets import Target


@dataclass(frozen=True)
class Level:
    """kernels: what computes it on this CPU, by the name of the program's kernel; compiled_for: whose code they are."""

    cpu: Cpu
    compiled_for: Cpu
    kernels: dict[str, KernelSpec]

    def symbol(self, name: str) -> str:
        """The C function of the kernel that the program calls `name`."""
        return f"{self.kernels[name].name}__{re.sub(r'[^a-z0-9]', '_', self.compiled_for.name)}"

    @property
    def symbols(self) -> dict[str, KernelSpec]:
        return {self.symbol(name): kernel for name, kernel in self.kernels.items()}

    def workspace_bytes(self, program: Program) -> int:
        """What the hungriest call of this level wants of a thread's workspace."""
        calls = ((self.kernels[call.kernel.name], call.rows) for call in program.calls)
        return max((kernel.workspace_bytes(rows, program.tokens) for kernel, rows in calls), default=0)


def make_levels(program: Program, target: Target) -> list[Level]:
    """Lowest first, the one that `program` was lowered for. Levels whose kernels are the same share their code."""
    variants: dict[tuple[str, frozenset[str]], Cpu] = {}
    levels = []
    for cpu in target.levels:
        kernels = {name: kernel.for_cpu(cpu) for name, kernel in program.kernels.items()}
        key = cpu.llvm_cpu, frozenset(kernel.name for kernel in kernels.values())
        levels.append(Level(cpu, variants.setdefault(key, cpu), kernels))
    return levels
