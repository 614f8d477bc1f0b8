"""Tasks: the kernels of a model whose tile is free, each with what one call of it reads and must give."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compile.cpus import Isa
from compile.kernels.contract import Arrays, TiledKernel
from compile.kernels.linear import Linear
from compile.kernels.tiles import TileConfig, TileKey, default_tile
from compile.program import Program

# Weights that a task goes through, so that each call finds its own outside the caches as an inference does.
COLD_BYTES = 32 << 20
# Calls in a timed run of a kernel that reads no weights.
WITHOUT_WEIGHTS = 32


@dataclass(frozen=True)
class Buffer:
    """A pointer argument of `shape` float32 (or other words), and what it is to the library around the kernel."""

    name: str
    shape: tuple[int, ...]
    role: str = "input"  # or "output", "scratch"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Task:
    """One kernel of a model: its tile is what is searched. `calls` an inference makes, over `rows` rows each.

    hot: calls in a timed run that all read the same weights, for a task that is about the core and not the memory.
    """

    kernel: TiledKernel
    rows: int
    calls: int
    hot: int = 0

    @property
    def key(self) -> TileKey:
        return self.kernel.tile_key(self.rows)

    @property
    def name(self) -> str:
        return f"{self.key.family} {self.key.k}x{self.key.n}"

    @property
    def flops(self) -> int:
        """Of one call: 2 × multiply-adds."""
        return self.kernel.flops(self.rows, self.rows)

    @property
    def repeats(self) -> int:
        """Calls in one timed run."""
        if weights := self.kernel.weight_bytes:
            return self.hot or max(1, COLD_BYTES // weights)
        return WITHOUT_WEIGHTS

    @property
    def arguments(self) -> list[Buffer | int]:
        """In the order of the kernel's C signature, of dense tensors; large enough for every tile."""
        kernels = [self.kernel, *map(self.kernel.with_tile, self.kernel.candidate_tiles())]
        arguments: list[Buffer | int] = []
        for parameters in zip(*(kernel.signature() for kernel in kernels), strict=True):
            first, size = parameters[0], max(p.size for p in parameters)
            match first.role:
                case "row_count" | "token_count":
                    arguments.append(self.rows)
                case "stride":
                    before = arguments[-1]
                    assert isinstance(before, Buffer)
                    arguments.append(before.shape[1] if len(before.shape) > 1 else 0)
                case "workspace":
                    nbytes = max(kernel.workspace_bytes(self.rows, self.rows) for kernel in kernels)
                    arguments.append(Buffer("workspace", (nbytes // 4,), "scratch"))
                case "rows" | "whole" if size:
                    arguments.append(Buffer(first.name, (self.rows, size), "output" if first.written else "input"))
                case _:
                    arguments.append(Buffer(first.name, (size or self.rows,)))
        return arguments

    @property
    def buffers(self) -> list[Buffer]:
        return [a for a in self.arguments if isinstance(a, Buffer)]


def tasks_of(program: Program) -> list[Task]:
    """Kernels with a tile, most of the model's work first. Kernels that share a tile are one task: the most called."""
    kernels = ((call.kernel, call.rows) for call in program.calls)
    counts = Counter(Task(kernel.dense(), rows, 0) for kernel, rows in kernels if isinstance(kernel, TiledKernel))
    busiest: dict[TileKey, Task] = {}
    calls: Counter[TileKey] = Counter()
    for task, count in counts.most_common():
        busiest.setdefault(task.key, task)
        calls[task.key] += count
    tasks = [replace(task, calls=calls[key]) for key, task in busiest.items()]
    return sorted(tasks, key=lambda t: -t.calls * t.flops)


def peak_task(isa: Isa) -> Task:
    """One panel of weights in the first-level cache and no row left over: as fast as a core multiplies and adds."""
    tile = replace(default_tile(isa), k_unroll=4)
    return Task(Linear(256, tile.nr, False, (), tile, isa), 16 * tile.mr, 1, hot=500)


def inputs_and_answer(task: Task, tile: TileConfig, seed: int = 0) -> tuple[Arrays, NDArray[np.float64]]:
    """Random inputs as the kernel wants them for `tile`, filling the task's buffers, and the answer in float64."""
    inputs, answer = task.kernel.with_tile(tile).example(task.rows, np.random.default_rng(seed))
    inputs = {name: a if a.dtype == np.float32 else a.ravel().view(np.float32) for name, a in inputs.items()}
    for buffer in task.buffers:
        if buffer.name in inputs and buffer.size > inputs[buffer.name].size:
            filled = np.zeros(buffer.size, inputs[buffer.name].dtype)
            filled[: inputs[buffer.name].size] = inputs[buffer.name].ravel()
            inputs[buffer.name] = filled
    return inputs, answer
