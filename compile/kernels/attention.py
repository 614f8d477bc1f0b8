"""attention_f32_h{heads}_d{size}_{isa}: softmax(scale · Q Kᵀ + mask) V for a block of query rows.

For each head, Kᵀ is laid out once in the workspace; then a tile of query rows at a time its scores are computed,
normalised and multiplied by V while they sit in the first-level cache. No tensor of heads × tokens × tokens exists.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from tvm import tirx

from compile.kernels import epilogue
from compile.kernels.builder import Expr, Kernel, Pointer, bind, broadcast, const, fold_lanes, lane, loop, when
from compile.kernels.math import exp
from compile.kernels.microkernel import Factors, for_row_tiles, multiply_accumulate, unrolled
from compile.kernels.packing import PackedTile, for_packed_tiles, padded
from compile.kernels.tiles import TileConfig
from compile.targets import Isa

# Where a maximum starts.
LOWEST = -3.0e38
# Keys an iteration of a sweep over the scores takes.
SWEEP = 4


@dataclass(frozen=True)
class Attention:
    """Arguments in C: q, ldq, k, ldk, v, ldv, mask, ldmask, y, ldy, workspace, tokens, rows.

    q and y point at the block's first row, k and v at token 0. ldmask is 0 where all queries share one mask row, else
    the mask has a row a query and points at the block's first. head_size is d; scale is usually 1/√d.
    """

    heads: int
    head_size: int
    scale: float
    has_mask: bool
    tile: TileConfig
    isa: Isa

    @property
    def name(self) -> str:
        mask = "_mask" if self.has_mask else ""
        scale = f"_s{self.scale:.6g}".replace(".", "p").replace("-", "m").replace("+", "")
        return f"attention_f32_{self.tile}_h{self.heads}_d{self.head_size}{scale}{mask}_{self.isa.name}"

    def flops(self, rows: int, tokens: int) -> int:
        return 4 * rows * tokens * self.heads * self.head_size

    def workspace_bytes(self, tokens: int) -> int:
        """One head's Kᵀ and one tile of scores, with the tokens padded to whole panels.

        Where tiles are packed, so are one tile of the mask, as large as the scores, and one of queries.
        """
        whole_panels = -(-tokens // self.tile.nr) * self.tile.nr
        rows_of_scores = self.tile.mr * (2 if self.isa.by_element and self.has_mask else 1)
        packed = self.tile.mr * padded(self.head_size) if self.isa.by_element else 0
        return 4 * (whole_panels * (self.head_size + rows_of_scores) + packed)

    def build(self) -> Any:
        lanes, nr, mr, d = self.isa.lanes, self.tile.nr, self.tile.mr, self.head_size
        with Kernel(self.name) as kernel:
            q, ldq = kernel.pointer("q"), kernel.int32("ldq")
            k, ldk = kernel.pointer("k"), kernel.int32("ldk")
            v, ldv = kernel.pointer("v"), kernel.int32("ldv")
            mask, ldmask = kernel.pointer("mask"), kernel.int32("ldmask")
            y, ldy = kernel.pointer("y"), kernel.int32("ldy")
            keys = kernel.pointer("workspace", align=64)
            tokens, rows = kernel.int32("tokens"), kernel.int32("rows")
            kernel.begin()
            acc, (spill,) = kernel.registers(mr * nr // lanes, lanes), kernel.registers(1, lanes)
            sums, peak, total = kernel.registers(mr, 1), kernel.registers(mr, lanes), kernel.registers(mr, lanes)
            panels = bind(tirx.truncdiv(tokens + (nr - 1), nr))
            width = bind(panels * nr)
            scores_at = bind(width * d)
            mask_at = bind(scores_at + width * mr)
            queries_at = bind(mask_at + width * mr * self.has_mask)

            def scores(height: int, factors: Factors) -> None:
                vectors = nr // lanes
                with loop(panels) as panel:

                    def weight(vec: int, c: Expr) -> Expr:
                        return keys.load((panel * d + c) * nr + vec * lanes, lanes)

                    _clear(acc, lanes)
                    multiply_accumulate(acc, vectors, self.isa, d, self.tile.k_unroll, factors, weight)
                    for i in range(height):
                        for vec in range(vectors):
                            at = scores_at + i * width + panel * nr + vec * lanes
                            keys.store(at, acc[i * vectors + vec].load(0, lanes), lanes)

            def softmax(first: Expr, i: int) -> None:
                mask_at = (first + i) * ldmask if self.has_mask else None
                at = bind(scores_at + i * width)
                _softmax_row(keys, at, mask, mask_at, self.scale, tokens, lanes, spill, sums[i])

            def weighted_sum(head: Expr, column: int, factors: Factors) -> Callable[[Expr, int, Expr], None]:
                """Multiply a tile's scores by some columns of V; what is returned stores one row of the result."""
                columns = min(nr, d - column)
                vectors = -(-columns // lanes)

                def weight(vec: int, t: Expr) -> Expr:
                    return v.load(t * ldv + head * d + column + vec * lanes, lanes)

                def store(row: Expr, i: int, scale: Expr) -> None:
                    scale = bind(broadcast(scale, lanes))
                    results = [acc[i * vectors + vec].load(0, lanes) * scale for vec in range(vectors)]
                    epilogue.store_columns(y, row * ldy + head * d + column, results, columns, lanes, spill)

                _clear(acc, lanes)
                multiply_accumulate(acc, vectors, self.isa, tokens, self.tile.k_unroll, factors, weight)
                return store

            def in_place(head: Expr, first: Expr, height: int) -> None:
                scores(height, lambda c, u: [q.load((first + i) * ldq + head * d + c + u) for i in range(height)])
                for i in range(height):
                    softmax(first, i)

                def weights(t: Expr, u: int) -> list[Expr]:
                    return [keys.load(scores_at + i * width + t + u) for i in range(height)]

                for column in range(0, d, nr):
                    store = weighted_sum(head, column, weights)
                    for i in range(height):
                        store(first + i, i, const(1.0) / sums[i].load(0))

            def packed(head: Expr, first: Expr, tile: PackedTile) -> None:
                """A lane is a query, also among the scores: softmax has no rest, and what it leaves is packed."""
                queries, scores, mask_tile = (replace(tile, at=at) for at in (queries_at, scores_at, mask_at))
                vectors = tile.height // lanes
                queries.pack(q, first * ldq + head * d, ldq, d)
                if self.scale != 1.0:
                    with loop(d) as c:
                        for v in range(vectors):
                            queries.store(c, v * lanes, queries.vector(c, v * lanes) * const(self.scale, lanes))
                if self.has_mask:
                    # A mask that all queries share is packed once a head.
                    with when(tirx.any(ldmask != 0, first == 0)) if tile.valid is None else nullcontext():
                        mask_tile.pack(mask, first * ldmask, ldmask, tokens)
                with loop(panels) as panel:
                    for t, v in product(range(nr), range(vectors)):
                        value = mask_tile.vector(panel * nr + t, v * lanes) if self.has_mask else const(0.0, lanes)
                        acc[t * vectors + v].store(0, value, lanes)
                    key = PackedTile(keys, panel * (d * nr), nr)

                    def query(vec: int, c: Expr) -> Expr:
                        return queries.vector(c, vec * lanes)

                    multiply_accumulate(acc, vectors, self.isa, d, self.tile.k_unroll, key.factors, query)
                    for t, v in product(range(nr), range(vectors)):
                        scores.store(panel * nr + t, v * lanes, acc[t * vectors + v].load(0, lanes))
                _softmax_columns(scores, tokens, peak[:vectors], total[:vectors], lanes)
                for column in range(0, d, nr):
                    store = weighted_sum(head, column, scores.factors)
                    for i in range(tile.height):
                        with tile.if_valid(i):
                            store(first + i, i, lane(total[i // lanes].load(0, lanes), i % lanes))

            with loop(self.heads) as head:
                _transpose(k, head * d, ldk, keys, nr, tokens, d)
                if self.isa.by_element:
                    for_packed_tiles(rows, mr, keys, 0, lambda first, tile: packed(head, first, tile))
                else:
                    for_row_tiles(rows, mr, lambda first, height: in_place(head, first, height))
        return kernel.func


def _transpose(x: Pointer, start: Expr, stride: Expr, to: Pointer, nr: int, rows: Expr, columns: int) -> None:
    """Panels [rows/nr][columns][nr] of x[start + row · stride + column]: blocks of 4 × 4, the rest one by one."""
    tall, wide = bind(tirx.truncdiv(rows, 4) * 4), columns // 4 * 4

    def at(row: Expr, column: Expr) -> Expr:
        return (tirx.truncdiv(row, nr) * columns + column) * nr + tirx.truncmod(row, nr)

    with loop(tirx.truncdiv(tall, 4)) as r:
        row = bind(at(r * 4, 0))
        with loop(wide // 4) as c:
            block = [bind(x.load(start + (r * 4 + i) * stride + c * 4, 4)) for i in range(4)]
            for j in range(4):
                to.store(row + (c * 4 + j) * nr, tirx.Shuffle(block, [i * 4 + j for i in range(4)]), 4)
    with loop(rows) as r, loop(columns - wide) as c:
        to.store(at(r, wide + c), x.load(start + r * stride + wide + c))
    with loop(rows - tall) as r, loop(wide) as c:
        to.store(at(tall + r, c), x.load(start + (tall + r) * stride + c))


def _clear(acc: list[Pointer], lanes: int) -> None:
    for register in acc:
        register.store(0, const(0.0, lanes), lanes)


def _softmax_columns(scores: PackedTile, tokens: Expr, peak: list[Pointer], total: list[Pointer], lanes: int) -> None:
    """scores[t] becomes e^{s − max} over t < tokens, for as many queries as it is high; 1 / Σ is left in `total`."""

    def sweep(body: Callable[[Expr, int], None]) -> None:
        def step(t: Expr, u: int) -> None:
            for v in range(len(peak)):
                body(t + u, v)

        unrolled(tokens, SWEEP, step)

    def raise_peak(t: Expr, v: int) -> None:
        peak[v].store(0, tirx.max(peak[v].load(0, lanes), scores.vector(t, v * lanes)), lanes)

    def exponential(t: Expr, v: int) -> None:
        value = bind(exp(scores.vector(t, v * lanes) - peak[v].load(0, lanes), lanes))
        scores.store(t, v * lanes, value)
        total[v].store(0, total[v].load(0, lanes) + value, lanes)

    for register in peak:
        register.store(0, const(LOWEST, lanes), lanes)
    sweep(raise_peak)
    _clear(total, lanes)
    sweep(exponential)
    for register in total:
        register.store(0, const(1.0, lanes) / register.load(0, lanes), lanes)


def _softmax_row(
    scores: Pointer,
    at: Expr,
    mask: Pointer,
    mask_at: Expr | None,
    scale: float,
    tokens: Expr,
    lanes: int,
    vector: Pointer,
    total: Pointer,
) -> None:
    """scores[at : at + tokens] becomes e^{s − max}; their sum is left in `total`, the division to the caller."""
    whole = bind(tirx.truncdiv(tokens, lanes))
    rest = bind(tokens - whole * lanes)

    def sweep(body: Any) -> None:
        with loop(whole) as v:
            body(v * lanes, lanes)
        with loop(rest) as t:
            body(whole * lanes + t, 1)

    def reduce_into(value: Expr, width: int, combine: Any) -> None:
        if width == lanes:
            vector.store(0, combine(vector.load(0, lanes), value), lanes)
        else:
            total.store(0, combine(total.load(0), value))

    def scaled(t: Expr, width: int) -> None:
        value = scores.load(at + t, width) * const(scale, width)
        if mask_at is not None:
            value = value + mask.load(mask_at + t, width)
        value = bind(value)
        scores.store(at + t, value, width)
        reduce_into(value, width, tirx.max)

    vector.store(0, const(LOWEST, lanes), lanes)
    total.store(0, const(LOWEST))
    sweep(scaled)
    peak = bind(tirx.max(fold_lanes(vector.load(0, lanes), lanes, tirx.max), total.load(0)))

    def exponential(t: Expr, width: int) -> None:
        value = bind(exp(scores.load(at + t, width) - broadcast(peak, width), width))
        scores.store(at + t, value, width)
        reduce_into(value, width, lambda a, b: a + b)

    vector.store(0, const(0.0, lanes), lanes)
    total.store(0, const(0.0))
    sweep(exponential)
    total.store(0, fold_lanes(vector.load(0, lanes), lanes, lambda a, b: a + b) + total.load(0))
