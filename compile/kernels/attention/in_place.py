"""Tiles of queries where they are: a row of scores is a row of memory."""

from __future__ import annotations

from itertools import product

from tvm import tirx

from compile.kernels.attention.tiles import LOWEST, SUM_LANES, Peaks, Span, Tiles, clear, is_number, transpose
from compile.kernels.builder import Expr, bind, broadcast, const, fold_lanes, lane, loop, opaque, when
from compile.kernels.math import exp
from compile.kernels.microkernel import Factors, for_row_tiles, multiply_accumulate


class InPlace(Tiles):
    """A lane is a key. Keys past the last are zeros, masked."""

    def one_head(self, head: Expr) -> None:
        for_row_tiles(self.rows, self.tile.mr, lambda first, height: self.one_tile(head, first, height))

    def one_tile(self, head: Expr, first: Expr, height: int) -> None:
        d = self.spec.head_size

        def queries(c: Expr, u: int) -> list[Expr]:
            return [self.q.load((first + i) * self.ldq + head * d + c + u) for i in range(height)]

        self.copy_mask(head, first, height)
        span = self.scores(first, height, lambda span: self.compute(first, height, queries, span))
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
                transpose(pointer, start, bias.key, self.keys, self.mask_at, self.width, self.tokens, height, add=True)

    def compute(self, first: Expr, height: int, queries: Factors, span: Span) -> Peaks:
        lanes, nr, d = self.isa.lanes, self.tile.nr, self.spec.head_size
        vectors = nr // lanes
        mask_step = bind(tirx.Select(self.own, self.width, 0))
        for peak in self.peak[:height]:
            peak.store(0, const(LOWEST, lanes), lanes)
        with self.panels(span) as panel:

            def weight(vec: int, c: Expr) -> Expr:
                return self.keys.load((panel * d + c) * nr + vec * lanes, lanes)

            clear(self.acc, lanes)
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

    def softmax(self, i: int, span: Span) -> None:
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
        if self.spec.zeros:
            has_key = self.peak[i]  # which is not read any more
            has_key.store(0, opaque(is_number(self.sums[i].load(0), 1), 1))
            if self.spec.zeros == "keyless":
                with when(has_key.load(0) < const(0.5)), loop(self.tokens) as t:
                    mask = self.keys.load(self.mask_at + tirx.Select(self.own, i * self.width, 0) + t)
                    has_key.store(0, tirx.Select(mask == const(LOWEST), has_key.load(0), const(1.0)))
            with when(has_key.load(0) < const(0.5)):
                with loop(span.end - span.begin) as t:
                    self.keys.store(at + t, const(0.0))
                self.sums[i].store(0, const(1.0))
