"""linear_f32_{mr}x{nr}_k{K}_n{N}[_{epilogue}]_{isa}: y = epilogue(x W), x (rows, K), W (K, N) packed in panels.

Weights are packed [N/nr][K][nr] and padded with zeros to a whole panel. The panel loop is outermost: one panel stays in
the first-level cache while all rows of the block pass over it, so each weight is read from memory once a block.
Meanwhile each tile asks for its rows' share of the next panel (behind the last one lie the next linear's weights, for
weights lie in the order of their use): the hardware's own prefetching stops at the end of each page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from compile.kernels import epilogue
from compile.kernels.builder import Expr, Kernel, bind, const, loop
from compile.kernels.microkernel import Factors, for_row_tiles, multiply_accumulate
from compile.kernels.packing import PackedTile, for_packed_tiles, padded
from compile.kernels.tiles import TileConfig
from compile.targets import Isa

CACHE_LINE = 16  # elements
FEW_ROWS = 16  # a block of so many asks for the whole next panel; a lower one for as much as it has time to


@dataclass(frozen=True)
class Linear:
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

    @property
    def name(self) -> str:
        parts = [f"linear_f32_{self.tile}_k{self.k}_n{self.n}", "bias" * self.bias, *self.steps]
        parts += ["ld" + "x".join(map(str, self.strides)) if self.strides else "", self.isa.name]
        return "_".join(p for p in parts if p)

    def flops(self, rows: int) -> int:
        """2 × multiply-adds."""
        return 2 * rows * self.k * self.n

    def workspace_bytes(self, rows: int) -> int:
        """For packed activations; 0 where they are read as they are."""
        return 4 * padded(rows) * padded(self.k) if self.isa.by_element else 0

    def build(self) -> Any:
        lanes, nr, mr = self.isa.lanes, self.tile.nr, self.tile.mr
        with Kernel(self.name) as kernel:
            x, ldx = kernel.pointer("x"), kernel.int32("ldx")
            w = kernel.pointer("w", align=64)
            y, ldy = kernel.pointer("y"), kernel.int32("ldy")
            bias = kernel.pointer("bias", align=64) if self.bias else None
            operands = epilogue.declare(kernel, self.steps)
            rows = kernel.int32("rows")
            workspace = kernel.pointer("workspace", align=64) if self.isa.by_element else None
            kernel.begin()
            if self.strides:
                ldx, ldy, *known = self.strides
                operands = epilogue.with_strides(operands, known)
            acc, (spill,) = kernel.registers(mr * nr // lanes, lanes), kernel.registers(1, lanes)

            def start(panel: Expr, vectors: int, height: int) -> None:
                for i in range(height):
                    for v in range(vectors):
                        value = bias.load(panel * nr + v * lanes, lanes) if bias else const(0.0, lanes)
                        acc[i * vectors + v].store(0, value, lanes)

            def accumulate(
                panel: Expr, vectors: int, factors: Factors, unroll: int, each: Callable[[Expr], None] | None = None
            ) -> None:
                def weight(v: int, k: Expr) -> Expr:
                    return w.load((panel * self.k + k) * nr + v * lanes, lanes)

                multiply_accumulate(acc, vectors, self.isa, self.k, unroll, factors, weight, each)

            def ask_ahead(panel: Expr, tile: Expr) -> Callable[[Expr], None]:
                unroll = self.tile.k_unroll
                share = bind(tirx.truncdiv(self.k * nr * mr // CACHE_LINE, rows))
                start = bind((panel + 1) * self.k * nr + tile * share * CACHE_LINE)
                lines = -(-mr * nr * unroll // (CACHE_LINE * FEW_ROWS))  # an iteration

                def each(k: Expr) -> None:
                    for line in range(lines):
                        w.prefetch(start + k * (lines * CACHE_LINE // unroll) + line * CACHE_LINE)

                return each

            def finish(panel: Expr, columns: int, row: Expr, i: int) -> None:
                vectors = -(-columns // lanes)
                results = []
                for v in range(vectors):
                    value = acc[i * vectors + v].load(0, lanes)
                    column = panel * nr + v * lanes
                    results.append(epilogue.apply(self.steps, operands, value, row, column, lanes))
                epilogue.store_columns(y, row * ldy + panel * nr, results, columns, lanes, spill)

            def in_place(panel: Expr, columns: int) -> None:
                vectors = -(-columns // lanes)

                def tile(first: Expr, height: int) -> None:
                    def factors(k: Expr, u: int) -> list[Expr]:
                        return [x.load((first + i) * ldx + k + u) for i in range(height)]

                    start(panel, vectors, height)
                    if height == mr:
                        ahead = ask_ahead(panel, tirx.truncdiv(first, mr))
                        accumulate(panel, vectors, factors, self.tile.k_unroll, ahead)
                    else:
                        accumulate(panel, vectors, factors, 1)
                    for i in range(height):
                        finish(panel, columns, first + i, i)

                for_row_tiles(rows, mr, tile)

            def packed(panel: Expr, columns: int) -> None:
                vectors = -(-columns // lanes)

                def tile(first: Expr, packed: PackedTile) -> None:
                    start(panel, vectors, packed.height)
                    accumulate(panel, vectors, packed.factors, self.tile.k_unroll)
                    for i in range(packed.height):
                        with packed.if_valid(i):
                            finish(panel, columns, first + i, i)

                for_packed_tiles(rows, mr, workspace, self.k, tile)

            compute = in_place
            if workspace:
                compute = packed
                for_packed_tiles(
                    rows, mr, workspace, self.k, lambda first, tile: tile.pack(x, first * ldx, ldx, self.k)
                )
            if self.n // nr:
                with loop(self.n // nr) as panel:
                    compute(panel, nr)
            if self.n % nr:
                compute(self.n // nr, self.n % nr)
        return kernel.func


def pack_weight(weight: NDArray[np.float32], tile: TileConfig) -> NDArray[np.float32]:
    """(K, N) row-major -> [N/nr][K][nr], zeros in the last panel beyond N."""
    k, n = weight.shape
    panels = -(-n // tile.nr)
    padded = np.zeros((k, panels * tile.nr), np.float32)
    padded[:, :n] = weight
    return np.ascontiguousarray(padded.reshape(k, panels, tile.nr).transpose(1, 0, 2))


def pack_vector(vector: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """(N,) padded with zeros to a multiple of `width`."""
    padded = np.zeros(-(-vector.size // width) * width, np.float32)
    padded[: vector.size] = vector
    return padded
