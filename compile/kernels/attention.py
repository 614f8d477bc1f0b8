"""attention_f32_h{heads}_d{size}_{isa}: softmax(scale · Q Kᵀ + mask + biases) V for a block of query rows.

For each head, scale · Kᵀ is laid out once in the workspace; then a tile of query rows at a time its scores are
computed, normalised and multiplied by V while they sit in the first-level cache. No tensor of heads × tokens × tokens
exists. All CPUs add in the same order and give the same bits. Where attention is local, keys that no query of a tile
looks at are left out: their weights would be 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from compile.cpus import Cpu, Isa
from compile.kernels import epilogue
from compile.kernels.builder import (
    Expr,
    Kernel,
    Pointer,
    bind,
    broadcast,
    const,
    fold_lanes,
    integer,
    lane,
    loop,
    opaque,
    when,
)
from compile.kernels.contract import (
    FIRST_ROW,
    ROW_COUNT,
    TOKEN_COUNT,
    TOKENS,
    WORKSPACE,
    Arrays,
    Signature,
    TiledKernel,
    tensor,
)
from compile.kernels.math import exp
from compile.kernels.microkernel import Factors, for_row_tiles, multiply_accumulate, unrolled
from compile.kernels.packing import PackedTile, for_packed_tiles, padded
from compile.kernels.reference import normal
from compile.kernels.tiles import TileConfig, TileKey, candidate_tiles, tile_of_width

# Where a maximum starts: keys that are all masked by it leave 0 / 0, as the definition does.
LOWEST = -math.inf
# Partial sums of a row of scores, of the keys that leave the same remainder, whatever the vectors.
SUM_LANES = 16
# Keys an iteration of a sweep over the scores takes.
SWEEP = 4
# Vectors of the queries' greatest scores, and how many each holds.
_Peaks = tuple[list[Expr], int]


@dataclass(frozen=True)
class Bias:
    """A number that is added to each score: element head · `head` + query · ldbias + key · `key` of its tensor.

    A relative position j − i is found so without a table of tokens × tokens: ldbias is −1 then, of a table with an
    entry a distance. Either `key` is 1, or ldbias is: neighbours lie along the keys or along the queries.
    """

    head: int
    key: int = 1


@dataclass(frozen=True)
class Window:
    """A key further than `reach` tokens from a query has the score `beyond`, which is far below what others have."""

    reach: int
    beyond: float


@dataclass(frozen=True)
class _Span:
    """Keys from `begin`, a multiple of the padding, to before `end`."""

    begin: Expr
    end: Expr


@dataclass(frozen=True)
class Attention(TiledKernel):
    """Arguments in C: q, ldq, k, ldk, v, ldv, mask, ldmask, each bias with its ldbias, y, ldy, workspace, tokens,
    first_row (if there is a window), rows.

    q, y and biases point at the block's first row, k and v at token 0. ldmask is 0 where all queries share one mask
    row, else the mask has a row a query and points at the block's first; without a mask neither is read. head_size is
    d; scale is usually 1/√d. guarded: a query whose softmax is not a number, as one without any key's is, gives zeros.
    key_heads: heads of K and V, each shared by as many of Q's; 0 where all have their own.
    window: which keys a query looks at, where those are not all. A query that finds all of these masked looks at every
    key: masked ones and those beyond may weigh the same then.
    """

    heads: int
    head_size: int
    scale: float
    has_mask: bool
    tile: TileConfig
    isa: Isa
    guarded: bool = False
    biases: tuple[Bias, ...] = ()
    key_heads: int = 0
    window: Window | None = None

    family = "attention"

    @property
    def name(self) -> str:
        mask = "_mask" * self.has_mask + "_guard" * self.guarded + f"_kv{self.key_heads}" * bool(self.key_heads)
        mask += "".join(f"_bias{bias.head}x{bias.key}" for bias in self.biases)
        numbers = f"_s{self.scale:.6g}"
        if self.window:
            numbers += f"_w{self.window.reach}_{self.window.beyond:.6g}"
        numbers = numbers.replace(".", "p").replace("-", "m").replace("+", "")
        return f"attention_f32_{self.tile}_h{self.heads}_d{self.head_size}{numbers}{mask}_{self.isa.name}"

    @property
    def width(self) -> int:
        return self.heads * self.head_size

    def signature(self) -> Signature:
        q, y = tensor("q", self.width), tensor("y", self.width, written=True)
        key_width = (self.key_heads or self.heads) * self.head_size
        k, v = tensor("k", key_width, "whole"), tensor("v", key_width, "whole")
        biases = [part for i in range(len(self.biases)) for part in tensor(f"bias{i}", TOKENS)]
        first = (FIRST_ROW,) if self.window else ()
        return (*q, *k, *v, *tensor("mask", TOKENS), *biases, *y, WORKSPACE, TOKEN_COUNT, *first, ROW_COUNT)

    def describe(self) -> str:
        extra = ["mask"] * self.has_mask + ["bias"] * len(self.biases)
        extra += [f"within {self.window.reach} tokens"] if self.window else []
        return ", ".join([f"attention {self.heads} heads × {self.head_size}", *extra])

    def flops(self, rows: int, tokens: int) -> int:
        """Of a window those within it, on average over all queries."""
        outside = max(0, tokens - 1 - self.window.reach) if self.window else 0  # of the first query
        return 4 * rows * (tokens * tokens - outside * (outside + 1)) // tokens * self.width

    def workspace_bytes(self, rows: int, tokens: int) -> int:
        """One head's Kᵀ, one tile of scores and its mask, with the tokens padded; where tiles are packed, also one of
        queries and their partial sums.
        """
        mr, width = self.tile.mr, -(-tokens // self.padding) * self.padding
        mask = mr if self.adds else 0 if self.isa.by_element else 1
        packed = mr * (padded(self.head_size) + SUM_LANES) if self.isa.by_element else 0
        return 4 * (width * (self.head_size + mr + mask) + packed)

    @property
    def adds(self) -> bool:
        """Whether anything is added to the scores."""
        return self.has_mask or bool(self.biases)

    @property
    def padding(self) -> int:
        """Keys are padded to whole panels and, where a lane is a key, to whole vectors of partial sums."""
        return self.tile.nr if self.isa.by_element else math.lcm(self.tile.nr, SUM_LANES)

    def tile_key(self, tokens: int) -> TileKey:
        return TileKey(self.family, self.isa.name, self.precision, self.head_size, tokens)

    def candidate_tiles(self) -> list[TileConfig]:
        return candidate_tiles(self.isa, self.precision)

    def dense(self) -> Attention:
        """Biases and windows have no part in which tile is best."""
        return replace(self, biases=(), key_heads=0, window=None)

    def for_cpu(self, cpu: Cpu) -> Attention:
        """Nothing is packed for it, so its panels are two of the CPU's vectors wide."""
        if self.isa == cpu.isa:
            return self
        return replace(self, isa=cpu.isa, tile=tile_of_width(2 * cpu.isa.lanes, cpu.isa, self.tile.k_unroll))

    def example(self, rows: int, rng: np.random.Generator) -> tuple[Arrays, NDArray[np.float64]]:
        """As many queries as keys, the last two masked."""
        operands = {name: normal(rng, rows, self.width) for name in "qkv"}
        operands["mask"] = np.where(np.arange(rows) < rows - 2, 0.0, -1e4).astype(np.float32)
        q, k, v = (
            operands[name].astype(np.float64).reshape(-1, self.heads, self.head_size).transpose(1, 0, 2)
            for name in "qkv"
        )
        scores = self.scale * (q @ k.transpose(0, 2, 1)) + (operands["mask"] if self.has_mask else 0.0)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        return operands, ((scores / scores.sum(-1, keepdims=True)) @ v).transpose(1, 0, 2).reshape(rows, self.width)

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            code = _Code(self, kernel)
            with loop(self.heads) as head:
                code.transpose_keys(head)
                if self.isa.by_element:
                    code.packed(head)
                else:
                    code.in_place(head)
        return kernel.func


class _Code:
    """The code of an attention kernel as it is written: one head's tiles of queries, in place or packed."""

    def __init__(self, spec: Attention, kernel: Kernel) -> None:
        self.spec, self.tile, self.isa = spec, spec.tile, spec.isa
        arguments = kernel.arguments(spec.signature())
        self.q, self.k, self.v, self.mask, self.y = (arguments[name] for name in ("q", "k", "v", "mask", "y"))
        self.ldq, self.ldk, self.ldv, self.ldmask, self.ldy = (
            arguments[name] for name in ("ldq", "ldk", "ldv", "ldmask", "ldy")
        )
        if not spec.has_mask:
            self.ldmask = tirx.const(0, "int32")
        self.biases = [(bias, arguments[f"bias{i}"], arguments[f"ldbias{i}"]) for i, bias in enumerate(spec.biases)]
        # Whether each query has a row of its own of what is added to scores.
        self.own = tirx.const(True, "bool") if spec.biases else self.ldmask != 0
        self.keys, self.tokens, self.rows = (arguments[name] for name in ("workspace", "tokens", "rows"))
        lanes, mr = self.isa.lanes, spec.tile.mr
        self.acc, (self.spill,) = kernel.registers(mr * spec.tile.nr // lanes, lanes), kernel.registers(1, lanes)
        self.sums = kernel.registers(mr, 1)
        self.peak, self.total = kernel.registers(mr, lanes), kernel.registers(mr, lanes)
        (self.sweep,) = kernel.registers(1, SUM_LANES)
        self.width = bind(tirx.truncdiv(self.tokens + (spec.padding - 1), spec.padding) * spec.padding)
        # Where in the workspace, behind Kᵀ, each part begins.
        self.scores_at = bind(self.width * spec.head_size)
        self.mask_at = bind(self.scores_at + self.width * mr)
        self.queries_at = bind(self.mask_at + self.width * mr * spec.adds)
        self.partial_at = bind(self.queries_at + mr * padded(spec.head_size))
        if spec.window:
            self.first_row = arguments["first_row"]
            self.begin, self.end, self.again = kernel.registers(3, 1, "int32")
            (self.lanes,) = kernel.registers(1, lanes, "int32")  # TVM makes other ramps an element at a time
            self.lanes.store(0, tirx.Ramp(0, 1, lanes), lanes)

    def scores(self, first: Expr, height: int, compute: Callable[[_Span], _Peaks]) -> _Span:
        """Compute a tile's scores, for the keys that its queries look at; `compute` gives all queries' maxima."""
        spec = self.spec
        if spec.window is None:
            span = _Span(tirx.const(0, "int32"), self.tokens)
            compute(span)
            return span
        reach, row = spec.window.reach, bind(self.first_row + first)
        self.begin.store(0, tirx.truncdiv(tirx.max(row - reach, 0), spec.padding) * spec.padding)
        self.end.store(0, tirx.min(row + height + reach, self.tokens))
        self.again.store(0, tirx.const(1, "int32"))
        with loop(2), when(self.again.load(0) != 0):
            peaks, lanes = compute(_Span(bind(self.begin.load(0)), bind(self.end.load(0))))
            # Nothing is left of a key beyond the window, unless those within have as low a score.
            bound, none, some = (const(value, lanes) for value in (spec.window.beyond / 2, 0.0, 1.0))
            low = reduce(tirx.max, (tirx.Select(peak <= bound, some, none) for peak in peaks))
            is_low = bind(tirx.Select(fold_lanes(bind(low), lanes, tirx.max) > const(0.5), 1, 0))
            self.again.store(0, is_low)
            self.begin.store(0, tirx.Select(is_low != 0, 0, self.begin.load(0)))
            self.end.store(0, tirx.Select(is_low != 0, self.tokens, self.end.load(0)))
        return _Span(bind(self.begin.load(0)), bind(self.end.load(0)))

    def cut(self, first: Expr, height: int, panel: Expr, finish: Callable[[bool], None]) -> None:
        """Finish a panel of scores: finish(True) where the window ends for some query of the tile."""
        if self.spec.window is None:
            finish(False)
            return
        reach, row, key = self.spec.window.reach, self.first_row + first, panel * self.tile.nr
        cuts = bind(tirx.any(key < row + height - 1 - reach, key + self.tile.nr - 1 > row + reach))
        for value in (True, False):
            with when(cuts if value else tirx.Not(cuts)):
                finish(value)

    def within(self, score: Expr, distance: Expr) -> Expr:
        """A vector of scores of keys as far from their queries as `distance` says."""
        window = self.spec.window
        assert window is not None
        lanes = self.isa.lanes
        near = tirx.all(distance <= integer(window.reach, lanes), distance >= integer(-window.reach, lanes))
        return tirx.Select(near, score, tirx.min(score, const(window.beyond, lanes)))

    def transpose_keys(self, head: Expr) -> None:
        d, lanes = self.spec.head_size, self.isa.lanes
        if not self.isa.by_element:
            size = self.spec.padding * d
            with when(self.tokens < self.width), loop(size // lanes) as v:
                self.keys.store(self.width * d - size + v * lanes, const(0.0, lanes), lanes)
        _transpose(self.k, self.key_head(head), self.ldk, self.keys, 0, self.tile.nr, self.tokens, d, self.spec.scale)

    def key_head(self, head: Expr) -> Expr:
        """Where in a row of K or V the head begins."""
        shared = self.spec.heads // (self.spec.key_heads or self.spec.heads)
        return (tirx.truncdiv(head, shared) if shared > 1 else head) * self.spec.head_size

    def in_place(self, head: Expr) -> None:
        """Tiles of queries where they are: a row of scores is a row of memory. Keys past the last are zeros, masked."""
        for_row_tiles(self.rows, self.tile.mr, lambda first, height: self.tile_in_place(head, first, height))

    def tile_in_place(self, head: Expr, first: Expr, height: int) -> None:
        d = self.spec.head_size

        def queries(c: Expr, u: int) -> list[Expr]:
            return [self.q.load((first + i) * self.ldq + head * d + c + u) for i in range(height)]

        self.copy_mask(head, first, height)
        span = self.scores(first, height, lambda span: self.scores_in_place(first, height, queries, span))
        for i in range(height):
            self.softmax(i, span)

        def weights(t: Expr, u: int) -> list[Expr]:
            return [self.keys.load(self.scores_at + i * self.width + t + u) for i in range(height)]

        for column in range(0, d, self.tile.nr):
            store = self.weighted_sum(head, column, weights, span)
            for i in range(height):
                store(first + i, i, const(1.0) / self.sums[i].load(0))

    def copy_mask(self, head: Expr, first: Expr, height: int) -> None:
        """What is added to scores, each query's or all queries': the mask or zeros, and −∞ past the last token."""
        lanes, padding = self.isa.lanes, self.spec.padding
        along = [(pointer, bias.head, ld) for bias, pointer, ld in self.biases if bias.key == 1]
        with when(tirx.any(self.own, first == 0)), loop(tirx.Select(self.own, height, 1)) as i:
            to, mask = bind(self.mask_at + i * self.width), bind((first + i) * self.ldmask)
            starts = [bind(head * step + (first + i) * ld) for _, step, ld in along]
            with loop(padding // lanes) as v:
                self.keys.store(to + self.width - padding + v * lanes, const(LOWEST, lanes), lanes)

            def copy(t: Expr, width: int) -> None:
                value = self.mask.load(mask + t, width) if self.spec.has_mask else const(0.0, width)
                for (pointer, _, _), start in zip(along, starts, strict=True):
                    value = value + pointer.load(start + t, width)
                self.keys.store(to + t, value, width)

            whole = bind(tirx.truncdiv(self.tokens, lanes))
            with loop(whole) as v:
                copy(v * lanes, lanes)
            with loop(self.tokens - whole * lanes) as t:
                copy(whole * lanes + t, 1)
        for bias, pointer, _ in self.biases:
            if bias.key != 1:  # a key's queries lie side by side
                start = head * bias.head + first
                _transpose(pointer, start, bias.key, self.keys, self.mask_at, self.width, self.tokens, height, add=True)

    def scores_in_place(self, first: Expr, height: int, queries: Factors, span: _Span) -> _Peaks:
        lanes, nr, d = self.isa.lanes, self.tile.nr, self.spec.head_size
        vectors = nr // lanes
        mask_step = bind(tirx.Select(self.own, self.width, 0))
        for peak in self.peak[:height]:
            peak.store(0, const(LOWEST, lanes), lanes)
        with self.panels(span) as panel:

            def weight(vec: int, c: Expr) -> Expr:
                return self.keys.load((panel * d + c) * nr + vec * lanes, lanes)

            _clear(self.acc, lanes)
            multiply_accumulate(self.acc, vectors, self.isa, d, self.tile.k_unroll, queries, weight)

            def finish(cuts: bool) -> None:
                for i, vec in product(range(height), range(vectors)):
                    peak, column = self.peak[i], panel * nr + vec * lanes
                    mask = self.keys.load(self.mask_at + i * mask_step + column, lanes)
                    score = bind(self.acc[i * vectors + vec].load(0, lanes) + mask)
                    if cuts:
                        distance = broadcast(column - (self.first_row + first + i), lanes) + self.lanes.load(0, lanes)
                        score = bind(self.within(score, bind(distance)))
                    self.keys.store(self.scores_at + i * self.width + column, score, lanes)
                    peak.store(0, tirx.max(peak.load(0, lanes), score), lanes)

            self.cut(first, height, panel, finish)
        for peak in self.peak[:height]:
            peak.store(0, broadcast(fold_lanes(peak.load(0, lanes), lanes, tirx.max), lanes), lanes)
        return [lane(peak.load(0, lanes), 0) for peak in self.peak[:height]], 1

    @contextmanager
    def panels(self, span: _Span) -> Iterator[Expr]:
        """A loop over the panels of keys that hold the span's, and whole vectors of partial sums."""
        nr, padding = self.tile.nr, self.spec.padding
        end = tirx.truncdiv(span.end + (padding - 1), padding) * (padding // nr)
        begin = tirx.truncdiv(span.begin, nr)
        with loop(bind(end - begin)) as panel:
            yield panel + begin

    def softmax(self, i: int, span: _Span) -> None:
        """Row i of the scores becomes e^{s − max}; their sum is left in `sums`, the division to the caller."""
        at, lanes, sums = bind(self.scores_at + i * self.width), SUM_LANES, self.sweep
        peak = lane(self.peak[i].load(0, self.isa.lanes), 0)
        sums.store(0, const(0.0, lanes), lanes)
        at = bind(at + span.begin)
        with loop(tirx.truncdiv(span.end - span.begin + (lanes - 1), lanes)) as v:
            value = bind(exp(self.keys.load(at + v * lanes, lanes) - broadcast(peak, lanes), lanes))
            self.keys.store(at + v * lanes, value, lanes)
            sums.store(0, sums.load(0, lanes) + value, lanes)
        self.sums[i].store(0, fold_lanes(sums.load(0, lanes), lanes, lambda a, b: a + b))
        if self.spec.guarded:
            is_number = opaque(_is_number(self.sums[i].load(0), 1), 1)
            with when(is_number < const(0.5)):
                with loop(span.end - span.begin) as t:
                    self.keys.store(at + t, const(0.0))
                self.sums[i].store(0, const(1.0))

    def packed(self, head: Expr) -> None:
        """Packed tiles of queries: a lane is a query, also among the scores."""
        for_packed_tiles(self.rows, self.tile.mr, self.keys, 0, lambda first, tile: self.tile_packed(head, first, tile))

    def tile_packed(self, head: Expr, first: Expr, tile: PackedTile) -> None:
        """Softmax has no rest then, and what it leaves is packed already."""
        lanes, d = self.isa.lanes, self.spec.head_size
        places = self.queries_at, self.scores_at, self.mask_at, self.partial_at
        queries, scores, mask, partial = (replace(tile, at=at) for at in places)
        vectors = tile.height // lanes
        queries.pack(self.q, first * self.ldq + head * d, self.ldq, d)
        if self.spec.has_mask:
            # A mask that all queries share is packed once a head.
            with when(tirx.any(self.own, first == 0)) if tile.valid is None else nullcontext():
                mask.pack(self.mask, first * self.ldmask, self.ldmask, self.tokens)
        self.pack_biases(head, first, mask)
        peak, total = self.peak[:vectors], self.total[:vectors]

        def compute(span: _Span) -> _Peaks:
            self.scores_packed(first, queries, scores, mask, vectors, span)
            return _find_peaks(scores, span, peak, lanes)

        span = self.scores(first, tile.height, compute)
        _softmax_columns(scores, partial, span, peak, total, lanes, self.spec.guarded)
        for column in range(0, d, self.tile.nr):
            store = self.weighted_sum(head, column, scores.factors, span)
            for i in range(tile.height):
                with tile.if_valid(i):
                    store(first + i, i, lane(self.total[i // lanes].load(0, lanes), i % lanes))

    def pack_biases(self, head: Expr, first: Expr, mask: PackedTile) -> None:
        """Add them to the packed mask, or put them where there is none."""
        for index, (bias, pointer, ld) in enumerate(self.biases):
            add = self.spec.has_mask or index > 0
            start = bind(head * bias.head + first * ld)
            if bias.key == 1:
                mask.pack(pointer, start, ld, self.tokens, add)
                continue
            with loop(self.tokens) as t:
                mask.set_column(t, pointer, start + t * bias.key, add)

    def scores_packed(
        self, first: Expr, queries: PackedTile, scores: PackedTile, mask: PackedTile, vectors: int, span: _Span
    ) -> None:
        lanes, nr, d, acc = self.isa.lanes, self.tile.nr, self.spec.head_size, self.acc
        with self.panels(span) as panel:
            _clear(acc, lanes)
            key = PackedTile(self.keys, panel * (d * nr), nr)

            def query(vec: int, c: Expr) -> Expr:
                return queries.vector(c, vec * lanes)

            multiply_accumulate(acc, vectors, self.isa, d, self.tile.k_unroll, key.factors, query)

            def finish(cuts: bool) -> None:
                for t, v in product(range(nr), range(vectors)):
                    score = acc[t * vectors + v].load(0, lanes)
                    score = score + mask.vector(panel * nr + t, v * lanes) if self.spec.adds else score
                    if cuts:
                        distance = panel * nr + t - (self.first_row + first + v * lanes)
                        distance = broadcast(distance, lanes) - self.lanes.load(0, lanes)
                        score = self.within(bind(score), bind(distance))
                    scores.store(panel * nr + t, v * lanes, score)

            self.cut(first, vectors * lanes, panel, finish)

    def weighted_sum(self, head: Expr, column: int, factors: Factors, span: _Span) -> Callable[[Expr, int, Expr], None]:
        """Multiply a tile's scores by some columns of V; what is returned stores one row of the result."""
        lanes, d, acc = self.isa.lanes, self.spec.head_size, self.acc
        columns = min(self.tile.nr, d - column)
        vectors = -(-columns // lanes)

        def weight(vec: int, t: Expr) -> Expr:
            return self.v.load((span.begin + t) * self.ldv + self.key_head(head) + column + vec * lanes, lanes)

        def store(row: Expr, i: int, scale: Expr) -> None:
            scale = bind(broadcast(scale, lanes))
            results = [acc[i * vectors + vec].load(0, lanes) * scale for vec in range(vectors)]
            epilogue.store_columns(self.y, row * self.ldy + head * d + column, results, columns, lanes, self.spill)

        _clear(acc, lanes)
        depth = bind(span.end - span.begin)
        multiply_accumulate(
            acc, vectors, self.isa, depth, self.tile.k_unroll, lambda t, u: factors(span.begin + t, u), weight
        )
        return store


def _transpose(
    x: Pointer, start: Expr, stride: Expr, to: Pointer, begin: Expr, nr: Expr, rows: Expr, columns: int,
    scale: float = 1.0, add: bool = False,
) -> None:  # fmt: skip
    """Panels [rows/nr][columns][nr] of scale · x[start + row · stride + column]: blocks of 4 × 4, then one by one.

    They begin at element `begin` of `to`; add: to what is there.
    """
    tall, wide = bind(tirx.truncdiv(rows, 4) * 4), columns // 4 * 4

    def at(row: Expr, column: Expr) -> Expr:
        return begin + (tirx.truncdiv(row, nr) * columns + column) * nr + tirx.truncmod(row, nr)

    def put(at: Expr, value: Expr, width: int = 1) -> None:
        to.store(at, to.load(at, width) + value if add else value, width)

    def scaled(row: Expr, column: Expr, width: int = 1) -> Expr:
        value = x.load(start + row * stride + column, width)
        return value if scale == 1.0 else value * const(scale, width)

    with loop(tirx.truncdiv(tall, 4)) as r:
        row = bind(at(r * 4, 0))
        with loop(wide // 4) as c:
            block = [bind(scaled(r * 4 + i, c * 4, 4)) for i in range(4)]
            for j in range(4):
                put(row + (c * 4 + j) * nr, tirx.Shuffle(block, [i * 4 + j for i in range(4)]), 4)
    with loop(rows) as r, loop(columns - wide) as c:
        put(at(r, wide + c), scaled(r, wide + c))
    with loop(rows - tall) as r, loop(wide) as c:
        put(at(tall + r, c), scaled(tall + r, c))


def _clear(acc: list[Pointer], lanes: int) -> None:
    for register in acc:
        register.store(0, const(0.0, lanes), lanes)


def _is_number(total: Expr, lanes: int) -> Expr:
    """1 where a sum of exponentials is at least 1, as the largest term alone is; 0 where it is not a number."""
    return tirx.Select(total > const(0.0, lanes), const(1.0, lanes), const(0.0, lanes))


def _sweep(span: _Span, vectors: int, body: Callable[[Expr, Expr, int], None]) -> None:
    """body(key, its partial sum, vector of queries) for each key of the span."""

    def step(t: Expr, u: int) -> None:
        slot = bind(tirx.truncmod(span.begin + t, SUM_LANES))
        for v in range(vectors):
            body(span.begin + t + u, slot + u, v)

    unrolled(span.end - span.begin, SWEEP, step)


def _find_peaks(scores: PackedTile, span: _Span, peak: list[Pointer], lanes: int) -> _Peaks:
    """The greatest score of each query, left in `peak`."""

    def raise_peak(t: Expr, _: Expr, v: int) -> None:
        peak[v].store(0, tirx.max(peak[v].load(0, lanes), scores.vector(t, v * lanes)), lanes)

    for register in peak:
        register.store(0, const(LOWEST, lanes), lanes)
    _sweep(span, len(peak), raise_peak)
    return [register.load(0, lanes) for register in peak], lanes


def _softmax_columns(
    scores: PackedTile,
    partial: PackedTile,
    span: _Span,
    peak: list[Pointer],
    total: list[Pointer],
    lanes: int,
    guarded: bool,
) -> None:
    """scores[t] becomes e^{s − max} over the span, for as many queries as it is high; 1 / Σ is left in `total`."""

    def exponential(t: Expr, slot: Expr, v: int) -> None:
        value = bind(exp(scores.vector(t, v * lanes) - peak[v].load(0, lanes), lanes))
        scores.store(t, v * lanes, value)
        partial.store(slot, v * lanes, partial.vector(slot, v * lanes) + value)

    for slot, v in product(range(SUM_LANES), range(len(total))):
        partial.store(slot, v * lanes, const(0.0, lanes))
    _sweep(span, len(peak), exponential)
    for v, register in enumerate(total):
        sums = [partial.vector(slot, v * lanes) for slot in range(SUM_LANES)]
        while len(sums) > 1:  # as `fold_lanes` does
            half = len(sums) // 2
            sums = [bind(a + b) for a, b in zip(sums[:half], sums[half:], strict=True)]
        register.store(0, sums[0], lanes)
    if guarded:
        numbers = [opaque(_is_number(register.load(0, lanes), lanes), lanes) for register in total]
        half = const(0.5, lanes)

        def clear(t: Expr, _: Expr, v: int) -> None:
            value = scores.vector(t, v * lanes)
            scores.store(t, v * lanes, tirx.Select(numbers[v] > half, value, const(0.0, lanes)))

        with when(fold_lanes(reduce(tirx.min, numbers), lanes, tirx.min) < const(0.5)):
            _sweep(span, len(peak), clear)
        for register, number in zip(total, numbers, strict=True):
            register.store(0, tirx.Select(number > half, register.load(0, lanes), const(1.0, lanes)), lanes)
    for register in total:
        register.store(0, const(1.0, lanes) / register.load(0, lanes), lanes)
