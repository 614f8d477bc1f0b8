"""Tasks: the kernels of a model whose tile is free, each with what one call of it reads and must give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compile.kernels.attention import Attention
from compile.kernels.epilogue import TENSOR_STEPS, VECTOR_STEPS
from compile.kernels.linear import Linear, pack_vector, pack_weight
from compile.kernels.tiles import TileConfig, TileKey, candidate_tiles
from compile.program import Program
from compile.targets import Isa

Arrays = dict[str, NDArray[np.float32]]

# Widest panel of any tile: a packed weight of any tile fits in N + this many columns.
WIDEST = 128
# Weights that a task goes through, so that each call finds its own outside the caches as an inference does.
COLD_BYTES = 32 << 20


@dataclass(frozen=True)
class Buffer:
    """A pointer argument of `shape` float32, and what it is to the library around the kernel."""

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

    kernel: Linear | Attention
    rows: int
    calls: int
    hot: int = 0

    @property
    def key(self) -> TileKey:
        if isinstance(self.kernel, Linear):
            return TileKey("linear", self.kernel.isa.name, "f32", self.kernel.k, self.kernel.n)
        return TileKey("attention", self.kernel.isa.name, "f32", self.kernel.head_size, self.rows)

    @property
    def name(self) -> str:
        return f"{self.key.family} {self.key.k}x{self.key.n}"

    @property
    def flops(self) -> int:
        """Of one call: 2 × multiply-adds."""
        if isinstance(self.kernel, Linear):
            return self.kernel.flops(self.rows)
        return self.kernel.flops(self.rows, self.rows)

    def with_tile(self, tile: TileConfig) -> Linear | Attention:
        return replace(self.kernel, tile=tile)

    @property
    def repeats(self) -> int:
        """Calls in one timed run."""
        if isinstance(self.kernel, Attention):
            return 32
        if self.hot:
            return self.hot
        return max(1, COLD_BYTES // (4 * self.kernel.k * self.kernel.n))

    @property
    def arguments(self) -> list[Buffer | int]:
        """In the order of the kernel's C signature; the same for every tile."""
        kernel, rows = self.kernel, self.rows
        if isinstance(kernel, Attention):
            width, tiles = kernel.heads * kernel.head_size, (rows + WIDEST) * (kernel.head_size + 32)
            qkv: list[Buffer | int] = []
            for name in "qkv":
                qkv += [Buffer(name, (rows, width)), width]
            mask: list[Buffer | int] = [Buffer("mask", (rows,)), 0]
            y, workspace = Buffer("y", (rows, width), "output"), Buffer("workspace", (tiles,), "scratch")
            return [*qkv, *mask, y, width, workspace, rows, rows]
        k, n = kernel.k, kernel.n
        vector = (-(-n // 64) * 64,)
        found: list[Buffer | int] = [Buffer("x", (rows, k)), k, Buffer("w", (k * (n + WIDEST),))]
        found += [Buffer("y", (rows, n), "output"), n]
        if kernel.bias:
            found.append(Buffer("bias", vector))
        for index, step in enumerate(kernel.steps):
            if step in VECTOR_STEPS:
                found.append(Buffer(f"{step}{index}", vector))
            elif step in TENSOR_STEPS:
                found += [Buffer(f"{step}{index}", (rows, n)), n]
        found.append(rows)
        if size := kernel.workspace_bytes(rows):
            found.append(Buffer("workspace", (size // 4,), "scratch"))
        return found

    @property
    def buffers(self) -> list[Buffer]:
        return [a for a in self.arguments if isinstance(a, Buffer)]


def tasks_of(program: Program) -> list[Task]:
    """Kernels with a tile, by how much of the model's work they do; of those that share a tile, the busiest stands."""
    counts: Counter[Task] = Counter()
    for call in program.calls:
        kernel = call.kernel
        if isinstance(kernel, Linear):
            # Known to the compiler, as in a build; but of dense tensors, which is what a trial has.
            strides = (kernel.k, *[kernel.n] * (len(kernel.strides) - 1)) if kernel.strides else ()
            counts[Task(replace(kernel, strides=strides), call.rows, 0)] += 1
        elif isinstance(kernel, Attention):
            counts[Task(kernel, call.rows, 0)] += 1
    busiest: dict[TileKey, Task] = {}
    calls: Counter[TileKey] = Counter()
    for task, count in counts.most_common():
        busiest.setdefault(task.key, task)
        calls[task.key] += count
    found = [replace(task, calls=calls[key]) for key, task in busiest.items()]
    return sorted(found, key=lambda t: -t.calls * t.flops)


def peak_task(isa: Isa) -> Task:
    """One panel of weights in the first-level cache and no row left over: as fast as a core multiplies and adds."""
    tile = replace(candidate_tiles(isa)[0], k_unroll=4)
    return Task(Linear(256, tile.nr, False, (), tile, isa), 16 * tile.mr, 1, hot=500)


def inputs_and_answer(task: Task, tile: TileConfig, seed: int = 0) -> tuple[Arrays, NDArray[np.float64]]:
    """Random inputs as the kernel wants them for `tile`, and what float64 makes of them."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    if isinstance(task.kernel, Attention):
        width = task.kernel.heads * task.kernel.head_size
        given = {name: normal(task.rows, width) for name in "qkv"}
        given["mask"] = np.where(np.arange(task.rows) < task.rows - 2, 0.0, -1e4).astype(np.float32)
        return given, _attention(task.kernel, given)
    kernel = task.kernel
    weight = normal(kernel.k, kernel.n) / np.float32(math.sqrt(kernel.k))
    given = {"x": normal(task.rows, kernel.k)}
    value = given["x"].astype(np.float64) @ weight
    packed = pack_weight(weight, tile).ravel()
    given["w"] = np.zeros(kernel.k * (kernel.n + WIDEST), np.float32)
    given["w"][: packed.size] = packed
    if kernel.bias:
        value = value + _vector(given, "bias", normal(kernel.n))
    for index, step in enumerate(kernel.steps):
        if step in VECTOR_STEPS:
            other = _vector(given, f"{step}{index}", normal(kernel.n))
        elif step in TENSOR_STEPS:
            other = given[f"{step}{index}"] = normal(task.rows, kernel.n)
        else:
            value = UNARY[step](value)
            continue
        value = value + other if step in ("add", "addv") else value * other
    return given, value


def _vector(given: Arrays, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    given[name] = pack_vector(values, 64)
    return values


def _attention(kernel: Attention, given: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    q, k, v = (
        given[name].astype(np.float64).reshape(-1, kernel.heads, kernel.head_size).transpose(1, 0, 2) for name in "qkv"
    )
    scores = kernel.scale * (q @ k.transpose(0, 2, 1)) + (given["mask"] if kernel.has_mask else 0.0)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return ((scores / scores.sum(-1, keepdims=True)) @ v).transpose(1, 0, 2).reshape(given["q"].shape)


_erf = np.vectorize(math.erf, otypes=[np.float64])
UNARY: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
}
