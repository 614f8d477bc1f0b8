"""linear_f32_{mr}x{nr}_k{K}_n{N}[_{epilogue}]_{isa}: y = epilogue(x W), x (rows, K), W (K, N) packed in panels.

Weights are packed [N/nr][K][nr] and padded with zeros to a whole panel. The panel loop is outermost: one panel stays in
the first-level cache while all rows of the block pass over it, so each weight is read from memory once a block.
Meanwhile each tile asks for its rows' share of the next panel (behind the last one lie the next linear's weights, for
weights lie in the order of their use): the hardware's own prefetching stops at the end of each page.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from compile.cpus import Cpu, Isa
from compile.kernels import epilogue, reference
from compile.kernels.builder import Expr, Kernel, bind, const, loop
from compile.kernels.contract import (
    ALIGNMENT,
    ROW_COUNT,
    VECTOR_PADDING,
    WORKSPACE,
    Arrays,
    Parameter,
    Signature,
    TiledKernel,
    pack_vector,
    tensor,
    vector,
)
from compile.kernels.microkernel import CACHE_LINE, FEW_ROWS, Factors, for_row_tiles, multiply_accumulate
from compile.kernels.packing import PackedTile, for_packed_tiles, padded
from compile.kernels.reference import normal
from compile.kernels.tiles import TileConfig, TileKey, candidate_tiles, tile_of_width


@dataclass(frozen=True)
class Linear(TiledKernel):
    """Arguments in C: x, ldx, w, y, ldy, [bias], then for each epilogue step its operand(s), rows, [workspace].

    bias: whether the accumulators start from a vector (it comes right after ldy) or from zero. workspace: where
    multiply-adds take a lane of a register, for the activations in the order that suits them. strides: where ldx, ldy
    and the operands' strides are known, those, in this order: rows are then reached by constant offsets from one
    address, and the arguments are not read.
    """

    k: int
    n: int
    bias: bool
    steps: tuple[str, ...]
    tile: TileConfig
    isa: Isa
    strides: tuple[int, ...] = ()

    family = "linear"

    @property
    def name(self) -> str:
        parts = [f"linear_f32_{self.tile}_k{self.k}_n{self.n}", "bias" * self.bias, *self.steps]
        parts += ["ld" + "x".join(map(str, self.strides)) if self.strides else "", self.isa.name]
        return "_".join(p for p in parts if p)

    def signature(self) -> Signature:
        size = -(-self.n // self.tile.nr) * self.tile.nr * self.k
        weight = Parameter("w", "weight", size, align=ALIGNMENT)
        bias = (vector("bias", self.n),) if self.bias else ()
        operands = epilogue.signature(self.steps, self.n)
        workspace = (WORKSPACE,) if self.isa.by_element else ()
        y = tensor("y", self.n, written=True)
        return (*tensor("x", self.k), weight, *y, *bias, *operands, ROW_COUNT, *workspace)

    def describe(self) -> str:
        return ", ".join([f"linear {self.k} → {self.n}", *["bias"] * self.bias, *epilogue.describe(self.steps)])

    @property
    def adds_tensor(self) -> bool:
        return "add" in self.steps

    def flops(self, rows: int, tokens: int) -> int:
        return 2 * rows * self.k * self.n

    def workspace_bytes(self, rows: int, tokens: int) -> int:
        """For packed activations; 0 where they are read as they are."""
        return 4 * padded(rows) * padded(self.k) if self.isa.by_element else 0

    @property
    def weight_bytes(self) -> int:
        return 4 * self.k * self.n

    def tile_key(self, tokens: int) -> TileKey:
        return TileKey(self.family, self.isa.name, self.precision, self.k, self.n)

    def candidate_tiles(self) -> list[TileConfig]:
        return candidate_tiles(self.isa, self.precision)

    def for_cpu(self, cpu: Cpu) -> Linear:
        """Panels stay as wide as they are; itself if they are no whole number of the CPU's vectors."""
        if self.isa == cpu.isa or self.tile.nr % cpu.isa.lanes:
            return self
        return replace(self, isa=cpu.isa, tile=tile_of_width(self.tile.nr, cpu.isa, self.tile.k_unroll))

    def dense(self) -> Linear:
        return replace(self, strides=(self.k, *[self.n] * (len(self.strides) - 1)) if self.strides else ())

    def table_panel(self, weight: NDArray[Any], table: NDArray[Any]) -> tuple[int, int] | None:
        rows, columns = table.shape
        if self.n != rows or self.k < columns:
            return None
        stored = weight[:, :columns, :].transpose(0, 2, 1).reshape(-1, columns)
        return (self.k, self.tile.nr) if np.array_equal(stored[:rows], table) else None

    def example(self, rows: int, rng: np.random.Generator) -> tuple[Arrays, NDArray[np.float64]]:
        x = normal(rng, rows, self.k)
        weight = normal(rng, self.k, self.n) / np.float32(math.sqrt(self.k))
        operands, value = {"x": x, "w": pack_weight(weight, self.tile)}, x.astype(np.float64) @ weight
        if self.bias:
            bias = normal(rng, self.n)
            operands["bias"], value = pack_vector(bias, VECTOR_PADDING), value + bias
        return operands, reference.epilogue(self.steps, value, operands, rng)

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            code = _Code(self, kernel)
            compute = code.packed if self.isa.by_element else code.in_place
            if self.isa.by_element:
                code.pack_rows()
            if self.n // self.tile.nr:
                with loop(self.n // self.tile.nr) as panel:
                    compute(panel, self.tile.nr)
            if self.n % self.tile.nr:
                compute(self.n // self.tile.nr, self.n % self.tile.nr)
        return kernel.func


class _Code:
    """The code of a linear kernel as it is written, a panel at a time: rows in place, or packed tiles of them."""

    def __init__(self, spec: Linear, kernel: Kernel) -> None:
        self.spec, self.tile, self.isa = spec, spec.tile, spec.isa
        arguments = kernel.arguments(spec.signature())
        self.x, self.ldx, self.w, self.y, self.ldy, self.rows = (
            arguments[name] for name in ("x", "ldx", "w", "y", "ldy", "rows")
        )
        self.bias, self.workspace = arguments.get("bias"), arguments.get("workspace")
        self.operands = epilogue.operands(spec.steps, arguments)
        if spec.strides:
            self.ldx, self.ldy, *others = spec.strides
            self.operands = epilogue.with_strides(self.operands, others)
        lanes = self.isa.lanes
        self.acc, (self.spill,) = (
            kernel.registers(spec.tile.mr * spec.tile.nr // lanes, lanes),
            kernel.registers(1, lanes),
        )

    def in_place(self, panel: Expr, columns: int) -> None:
        """One panel times rows that are read where they are."""
        vectors, mr = self.vectors(columns), self.tile.mr

        def tile(first: Expr, height: int) -> None:
            def factors(k: Expr, u: int) -> list[Expr]:
                return [self.x.load((first + i) * self.ldx + k + u) for i in range(height)]

            self.start(panel, vectors, height)
            if height == mr:
                prefetch = self.prefetch_next_panel(panel, tirx.truncdiv(first, mr))
                self.accumulate(panel, vectors, factors, self.tile.k_unroll, prefetch)
            else:
                self.accumulate(panel, vectors, factors, 1)
            for i in range(height):
                self.finish(panel, columns, first + i, i)

        for_row_tiles(self.rows, mr, tile)

    def pack_rows(self) -> None:
        for_packed_tiles(
            self.rows, self.tile.mr, self.workspace, self.spec.k,
            lambda first, tile: tile.pack(self.x, first * self.ldx, self.ldx, self.spec.k),
        )  # fmt: skip

    def packed(self, panel: Expr, columns: int) -> None:
        """One panel times rows that `pack_rows` has put into the workspace."""
        vectors = self.vectors(columns)

        def tile(first: Expr, packed: PackedTile) -> None:
            self.start(panel, vectors, packed.height)
            self.accumulate(panel, vectors, packed.factors, self.tile.k_unroll)
            for i in range(packed.height):
                with packed.if_valid(i):
                    self.finish(panel, columns, first + i, i)

        for_packed_tiles(self.rows, self.tile.mr, self.workspace, self.spec.k, tile)

    def vectors(self, columns: int) -> int:
        return -(-columns // self.isa.lanes)

    def start(self, panel: Expr, vectors: int, height: int) -> None:
        """Accumulators from the bias, or from zero."""
        lanes = self.isa.lanes
        for i in range(height):
            for v in range(vectors):
                value = self.bias.load(panel * self.tile.nr + v * lanes, lanes) if self.bias else const(0.0, lanes)
                self.acc[i * vectors + v].store(0, value, lanes)

    def accumulate(
        self, panel: Expr, vectors: int, factors: Factors, unroll: int, each: Callable[[Expr], None] | None = None
    ) -> None:
        def weight(v: int, k: Expr) -> Expr:
            return self.w.load((panel * self.spec.k + k) * self.tile.nr + v * self.isa.lanes, self.isa.lanes)

        multiply_accumulate(self.acc, vectors, self.isa, self.spec.k, unroll, factors, weight, each)

    def prefetch_next_panel(self, panel: Expr, tile: Expr) -> Callable[[Expr], None]:
        """What each iteration of a tile's inner product asks for: together, the tile's share of the next panel."""
        mr, nr, unroll, k = self.tile.mr, self.tile.nr, self.tile.k_unroll, self.spec.k
        share = bind(tirx.truncdiv(k * nr * mr // CACHE_LINE, self.rows))
        start = bind((panel + 1) * k * nr + tile * share * CACHE_LINE)
        lines = -(-mr * nr * unroll // (CACHE_LINE * FEW_ROWS))  # an iteration

        def each(k: Expr) -> None:
            for line in range(lines):
                self.w.prefetch(start + k * (lines * CACHE_LINE // unroll) + line * CACHE_LINE)

        return each

    def finish(self, panel: Expr, columns: int, row: Expr, i: int) -> None:
        """Apply the epilogue to row `i` of the accumulators and store it."""
        vectors, lanes, nr = self.vectors(columns), self.isa.lanes, self.tile.nr
        results = []
        for v in range(vectors):
            value = self.acc[i * vectors + v].load(0, lanes)
            column = panel * nr + v * lanes
            results.append(epilogue.apply(self.spec.steps, self.operands, value, row, column, lanes))
        epilogue.store_columns(self.y, row * self.ldy + panel * nr, results, columns, lanes, self.spill)


def pack_weight(weight: NDArray[np.float32], tile: TileConfig) -> NDArray[np.float32]:
    """(K, N) row-major -> [N/nr][K][nr], zeros in the last panel beyond N."""
    k, n = weight.shape
    panels = -(-n // tile.nr)
    padded = np.zeros((k, panels * tile.nr), np.float32)
    padded[:, :n] = weight
    return np.ascontiguousarray(padded.reshape(k, panels, tile.nr).transpose(1, 0, 2))
