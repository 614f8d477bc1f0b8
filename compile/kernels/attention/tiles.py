"""What both layouts of an attention kernel's tiles of queries share: arguments, workspace, keys, windows, the product
with V.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from tvm import tirx

from compile.kernels import epilogue
from compile.kernels.builder import Expr, Kernel, Pointer, bind, broadcast, const, fold_lanes, integer, loop, when
from compile.kernels.microkernel import Factors, multiply_accumulate
from compile.kernels.packing import padded

if TYPE_CHECKING:
    from compile.kernels.attention.spec import Attention

# Where a maximum starts: keys that are all masked by it leave 0 / 0, as the definition does.
LOWEST = -math.inf
# Partial sums of a row of scores, of the keys that leave the same remainder, whatever the vectors.
SUM_LANES = 16
# Vectors of the queries' greatest scores, and how many each holds.
Peaks = tuple[list[Expr], int]


@dataclass(frozen=True)
class Span:
    """Keys from `begin`, a multiple of the padding, to before `end`."""

    begin: Expr
    end: Expr


class Tiles(ABC):
    """The code of an attention kernel as it is written."""

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

    @abstractmethod
    def one_head(self, head: Expr) -> None:
        """Its rows of y, from the keys that were transposed."""

    def scores(self, first: Expr, height: int, compute: Callable[[Span], Peaks]) -> Span:
        """Compute a tile's scores, for the keys that its queries look at; `compute` gives all queries' maxima."""
        spec = self.spec
        if spec.window is None:
            span = Span(tirx.const(0, "int32"), self.tokens)
            compute(span)
            return span
        reach, row = spec.window.reach, bind(self.first_row + first)
        self.begin.store(0, tirx.truncdiv(tirx.max(row - reach, 0), spec.padding) * spec.padding)
        self.end.store(0, tirx.min(row + height + reach, self.tokens))
        self.again.store(0, tirx.const(1, "int32"))
        with loop(2), when(self.again.load(0) != 0):
            peaks, lanes = compute(Span(bind(self.begin.load(0)), bind(self.end.load(0))))
            # Nothing is left of a key beyond the window, unless those within have as low a score.
            bound, none, some = (const(value, lanes) for value in (spec.window.beyond / 2, 0.0, 1.0))
            low = reduce(tirx.max, (tirx.Select(peak <= bound, some, none) for peak in peaks))
            is_low = bind(tirx.Select(fold_lanes(bind(low), lanes, tirx.max) > const(0.5), 1, 0))
            self.again.store(0, is_low)
            self.begin.store(0, tirx.Select(is_low != 0, 0, self.begin.load(0)))
            self.end.store(0, tirx.Select(is_low != 0, self.tokens, self.end.load(0)))
        return Span(bind(self.begin.load(0)), bind(self.end.load(0)))

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
        transpose(self.k, self.key_head(head), self.ldk, self.keys, 0, self.tile.nr, self.tokens, d, self.spec.scale)

    def key_head(self, head: Expr) -> Expr:
        """Where in a row of K or V the head begins."""
        shared = self.spec.heads // (self.spec.key_heads or self.spec.heads)
        return (tirx.truncdiv(head, shared) if shared > 1 else head) * self.spec.head_size

    @contextmanager
    def panels(self, span: Span) -> Iterator[Expr]:
        """A loop over the panels of keys that hold the span's, and whole vectors of partial sums."""
        nr, padding = self.tile.nr, self.spec.padding
        end = tirx.truncdiv(span.end + (padding - 1), padding) * (padding // nr)
        begin = tirx.truncdiv(span.begin, nr)
        with loop(bind(end - begin)) as panel:
            yield panel + begin

    def weighted_sum(self, head: Expr, column: int, factors: Factors, span: Span) -> Callable[[Expr, int, Expr], None]:
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

        clear(acc, lanes)
        depth = bind(span.end - span.begin)
        multiply_accumulate(
            acc, vectors, self.isa, depth, self.tile.k_unroll, lambda t, u: factors(span.begin + t, u), weight
        )
        return store


def transpose(
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


def clear(acc: list[Pointer], lanes: int) -> None:
    for register in acc:
        register.store(0, const(0.0, lanes), lanes)


def is_number(total: Expr, lanes: int) -> Expr:
    """1 where a sum of exponentials is at least 1, as the largest term alone is; 0 where it is not a number."""
    return tirx.Select(total > const(0.0, lanes), const(1.0, lanes), const(0.0, lanes))
