"""Instruction-set levels: one plan and one copy of the weights, and a set of kernels for each level of CPU.

Which set runs is decided when a library is opened. A level costs its code and nothing else, so its kernels read the
weights as the lowest level's do: panels of the same width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from compile.kernels.attention import Attention
from compile.kernels.tiles import TileConfig
from compile.program import KernelSpec, Program
from compile.targets import Cpu, Isa, Target

ACCUMULATORS = 16  # enough to hide a multiply-add's latency where there are 32 registers


@dataclass(frozen=True)
class Level:
    """kernels: what computes it on this CPU, by the name of the program's kernel; code: whose machine code they are."""

    cpu: Cpu
    code: Cpu
    kernels: dict[str, KernelSpec]

    def symbol(self, name: str) -> str:
        """The C function of the kernel that the program calls `name`."""
        return f"{self.kernels[name].name}__{re.sub(r'[^a-z0-9]', '_', self.code.name)}"

    @property
    def symbols(self) -> dict[str, KernelSpec]:
        return {self.symbol(name): kernel for name, kernel in self.kernels.items()}

    def workspace_bytes(self, tokens: int) -> int:
        """What the attentions of this level want of a thread's workspace."""
        return max((k.workspace_bytes(tokens) for k in self.kernels.values() if isinstance(k, Attention)), default=0)


def make_levels(program: Program, target: Target) -> list[Level]:
    """Lowest first, the one that `program` was lowered for. Levels that differ in no float32 code share it."""
    code: dict[tuple[str, Isa], Cpu] = {}
    return [
        Level(
            cpu,
            code.setdefault((cpu.llvm_cpu, cpu.isa), cpu),
            {name: kernel_for(kernel, cpu.isa) for name, kernel in program.kernels.items()},
        )
        for cpu in target.levels
    ]


def kernel_for(kernel: Any, isa: Isa) -> Any:
    """`kernel` with the vectors of `isa`; as it is where it has none, or its panels are no whole number of them."""
    if getattr(kernel, "isa", isa) == isa:
        return kernel
    tile = getattr(kernel, "tile", None)
    if tile is None:
        return replace(kernel, isa=isa)
    width = 2 * isa.lanes if isinstance(kernel, Attention) else tile.nr  # nothing is packed for an attention
    if width % isa.lanes:
        return kernel
    return replace(kernel, isa=isa, tile=TileConfig(ACCUMULATORS * isa.lanes // width or 1, width, tile.k_unroll))
