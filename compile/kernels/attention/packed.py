"""Packed tiles of queries: a lane is a query, also among the scores."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from itertools import product

from tvm import tirx

from compile.kernels.attention.tiles import LOWEST, SUM_LANES, Peaks, Span, Tiles, clear, is_number
from compile.kernels.builder import Expr, Pointer, bind, broadcast, const, fold_lanes, lane, loop, opaque, when
from compile.kernels.math import exp
from compile.kernels.microkernel import multiply_accumulate, unrolled
from compile.kernels.packing import PackedTile, for_packed_tiles

# Keys an iteration of a sweep over the scores takes.
SWEEP = 4


class Packed(Tiles):
    """Softmax has no rest so, and what it leaves is packed already."""

    def one_head(self, head: Expr) -> None:
        for_packed_tiles(self.rows, self.tile.mr, self.keys, 0, lambda first, tile: self.one_tile(head, first, tile))

    def one_tile(self, head: Expr, first: Expr, tile: PackedTile) -> None:
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

        def compute(span: Span) -> Peaks:
            self.compute(first, queries, scores, mask, vectors, span)
            return _find_peaks(scores, span, peak, lanes)

        span = self.scores(first, tile.height, compute)
        _softmax_columns(scores, partial, span, peak, total, lanes)
        if self.spec.zeros:
            _clear(scores, span, peak, total, lanes, mask if self.spec.zeros == "keyless" else None)
        for register in total:
            register.store(0, const(1.0, lanes) / register.load(0, lanes), lanes)
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

    def compute(
        self, first: Expr, queries: PackedTile, scores: PackedTile, mask: PackedTile, vectors: int, span: Span
    ) -> None:
        lanes, nr, d, acc = self.isa.lanes, self.tile.nr, self.spec.head_size, self.acc
        with self.panels(span) as panel:
            clear(acc, lanes)
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


def _sweep(span: Span, vectors: int, body: Callable[[Expr, Expr, int], None]) -> None:
    """body(key, its partial sum, vector of queries) for each key of the span."""

    def step(t: Expr, u: int) -> None:
        slot = bind(tirx.truncmod(span.begin + t, SUM_LANES))
        for v in range(vectors):
            body(span.begin + t + u, slot + u, v)

    unrolled(span.end - span.begin, SWEEP, step)


def _find_peaks(scores: PackedTile, span: Span, peak: list[Pointer], lanes: int) -> Peaks:
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
    span: Span,
    peak: list[Pointer],
    total: list[Pointer],
    lanes: int,
) -> None:
    """scores[t] becomes e^{s − max} over the span, for as many queries as it is high; Σ is left in `total`."""

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


def _clear(
    scores: PackedTile, span: Span, has_key: list[Pointer], total: list[Pointer], lanes: int, mask: PackedTile | None
) -> None:
    """Weights of queries whose sum is not a number become 0; with a mask only where it is −∞ for every key.

    has_key: memory for a number a query.
    """
    half = const(0.5, lanes)

    def find(t: Expr, _: Expr, v: int) -> None:
        assert mask is not None
        hidden = mask.vector(t, v * lanes) == const(LOWEST, lanes)
        has_key[v].store(0, tirx.Select(hidden, has_key[v].load(0, lanes), const(1.0, lanes)), lanes)

    def clear(t: Expr, _: Expr, v: int) -> None:
        value = scores.vector(t, v * lanes)
        scores.store(t, v * lanes, tirx.Select(has_key[v].load(0, lanes) > half, value, const(0.0, lanes)))

    for register, number in zip(total, has_key, strict=True):
        number.store(0, opaque(is_number(register.load(0, lanes), lanes), lanes), lanes)
    numbers = [number.load(0, lanes) for number in has_key]
    with when(fold_lanes(reduce(tirx.min, numbers), lanes, tirx.min) < const(0.5)):
        if mask is not None:
            _sweep(span, len(has_key), find)
        _sweep(span, len(has_key), clear)
        for register, number in zip(total, has_key, strict=True):
            one = const(1.0, lanes)
            register.store(0, tirx.Select(number.load(0, lanes) > half, register.load(0, lanes), one), lanes)
