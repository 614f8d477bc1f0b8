"""Arm: tiles of four or eight rows, activations packed a band of four rows at a time."""

from __future__ import annotations

from contextlib import nullcontext

from tvm import tirx

from compile.kernels.builder import Expr, bind, loop, when
from compile.kernels.int8_rows import BAND
from compile.kernels.linear_int8.code import Code
from compile.kernels.microkernel import unrolled


class Banded(Code):
    """Accumulators lie as the instruction leaves them; `totals` puts the columns of a row side by side."""

    def accumulators(self) -> int:
        return self.tile.mr * self.tile.nr // self.isa.lanes * (2 if self.dot == "mull" else 1)

    def columns(self, first: Expr, columns: int) -> None:
        """`tile.nr` columns at a time; those past the last are computed, and dropped."""
        rows, mr = self.rows, self.tile.mr
        vectors = -(-columns // 4)
        vectors += vectors % 2 if self.dot == "smmla" else 0
        full = bind(tirx.truncdiv(rows, mr))
        if self.dot == "smmla":
            self.bring_side_by_side(first, vectors)

        def tile(row: Expr, height: int, valid: Expr | None) -> None:
            bands = range(0, height, BAND)
            zeros = [bind(self.quantized.zero(row + band, BAND)) for band in bands]
            multiply = {"sdot": self.by_element, "smmla": self.by_matrix, "mull": self.by_halves}[self.dot]
            multiply(row, first, height, vectors, zeros)
            scales = [bind(self.quantized.scale(row + band, BAND)) for band in bands]
            for i in range(height):
                totals = self.totals(i, first, vectors, zeros)[: -(-columns // 4)]
                with nullcontext() if valid is None else when(valid > i):
                    self.finish(row + i, first, columns, totals, _lane_of_band(scales, i))

        with loop(full) as index:
            tile(index * mr, mr, None)
        start = bind(full * mr)
        left = bind(rows - start)
        for low in range(0, mr, BAND):
            with when(tirx.all(left > low, left <= low + BAND)):
                tile(start, low + BAND, left)

    def words(self, row: Expr, band: int, offset: Expr, lanes: int = 4) -> Expr:
        return self.quantized.memory.load(self.quantized.at(row + band * BAND) + offset, lanes)

    def by_element(self, row: Expr, first: Expr, height: int, vectors: int, zeros: list[Expr]) -> None:
        """Sums begin at what the zero points take off."""
        for v in range(vectors):
            sums = bind(self.sums.load(first + 4 * v, 4))
            for i in range(height):
                self.acc[i * vectors + v].store(0, sums * _lane_of_band(zeros, i), 4)

        def step(k: Expr, u: int) -> None:
            a = [bind(self.words(row, band, self.quantized.word(0, k + u))) for band in range(height // BAND)]
            b = [bind(self.bytes_of(self.weight(first, 4 * v, k + u, 4))) for v in range(vectors)]
            for i in range(height):
                factor = self.bytes_of(_lane_of_band(a, i))
                for v in range(vectors):
                    self.add(i * vectors + v, "llvm.aarch64.neon.sdot.v4i32.v16i8", b[v], factor)

        unrolled(self.depth, self.tile.k_unroll, step)

    def bring_side_by_side(self, first: Expr, vectors: int) -> None:
        """Eight bytes of a column, of two words that lie 64 bytes apart in the panel; once for all rows."""
        with loop(self.depth // 2) as pair:
            for v in range(vectors):
                words = [bind(self.weight(first, 4 * v, pair * 2 + g, 4)) for g in range(2)]
                for half, order in enumerate(([0, 4, 1, 5], [2, 6, 3, 7])):
                    at = self.quantized.end + ((pair * vectors + v) * 2 + half) * 4
                    self.memory.store(at, tirx.Shuffle(words, order), 4)

    def by_matrix(self, row: Expr, first: Expr, height: int, vectors: int, _: list[Expr]) -> None:
        """Accumulator (i, v) holds rows 2i and 2i + 1 of columns 2v and 2v + 1."""
        self.clear(height * vectors)
        pairs = height // 2

        def step(k: Expr, u: int) -> None:
            group = (k + u) * 2
            a = [
                bind(self.bytes_of(self.words(row, i // 2, self.quantized.word(i % 2 * 2, group))))
                for i in range(pairs)
            ]
            for v in range(2 * vectors):
                b = bind(self.bytes_of(self.memory.load(self.quantized.end + ((k + u) * 2 * vectors + v) * 4, 4)))
                for i in range(pairs):
                    self.add(i * 2 * vectors + v, "llvm.aarch64.neon.smmla.v4i32.v16i8", a[i], b)

        unrolled(self.depth // 2, max(self.tile.k_unroll // 2, 1), step)

    def by_halves(self, row: Expr, first: Expr, height: int, vectors: int, _: list[Expr]) -> None:
        """Accumulator (i, v, h) holds two sums each of columns 4v + 2h and 4v + 2h + 1."""
        self.clear(height * vectors * 2)
        bands = range(height // BAND)

        def step(k: Expr, u: int) -> None:
            groups = [(k + u) * 2 + g for g in range(2)]
            a = [[bind(self.words(row, band, self.quantized.word(0, g))) for g in groups] for band in bands]
            for v in range(vectors):
                b = [bind(self.bytes_of(self.weight(first, 4 * v, g, 4))) for g in groups]
                for i in range(height):
                    factors = [self.bytes_of(_lane(words, i % BAND)) for words in a[i // BAND]]
                    for half in range(2):
                        products = [_mull(_half(b[g], half), _half(factors[g], half)) for g in range(2)]
                        total = self.acc[(i * vectors + v) * 2 + half]
                        for product in products if self.spec.apart else [products[0] + products[1]]:
                            total.store(0, total.load(0, 4) + _add_pairs(product), 4)

        unrolled(self.depth // 2, max(self.tile.k_unroll // 2, 1), step)

    def totals(self, i: int, first: Expr, vectors: int, zeros: list[Expr]) -> list[Expr]:
        """Row i's sums, four columns a vector, zero points taken off."""
        if self.dot == "sdot":
            return [self.acc[i * vectors + v].load(0, 4) for v in range(vectors)]
        sums = []
        for v in range(vectors):
            row = i // 2 if self.dot == "smmla" else i
            low, high = (bind(self.acc[(row * vectors + v) * 2 + half].load(0, 4)) for half in range(2))
            if self.dot == "smmla":
                total = tirx.Shuffle([low, high], [0, 1, 4, 5] if i % 2 == 0 else [2, 3, 6, 7])
            else:
                total = tirx.Shuffle([low, high], [0, 2, 4, 6]) + tirx.Shuffle([low, high], [1, 3, 5, 7])
            sums.append(total + self.sums.load(first + 4 * v, 4) * _lane_of_band(zeros, i))
        return sums


def _lane_of_band(bands: list[Expr], row: int) -> Expr:
    """One row's number in all lanes, of vectors with four rows' each."""
    return _lane(bands[row // BAND], row % BAND)


def _lane(vector: Expr, index: int) -> Expr:
    return tirx.Shuffle([vector], [index] * BAND)


def _half(vector: Expr, half: int) -> Expr:
    return tirx.Shuffle([vector], list(range(8 * half, 8 * half + 8)))


def _mull(a: Expr, b: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.smull.v8i16", a, b)


def _add_pairs(products: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products)
