"""Rows quantised inside a kernel, into its workspace, as `int8_reference` states it.

Where a row's bytes lie depends on the instruction that will multiply them; four successive elements are always one
word of 32 bits (with 16-bit products: two words, of the first and third and of the second and fourth element).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from compile.cpus import RELAXED, SIMD128, Isa
from compile.kernels.builder import Expr, Pointer, bind, broadcast, const, fma, fold_lanes, integer, lane, loop, when
from compile.kernels.int8_reference import SMALLEST_RANGE, STEPS
from compile.kernels.microkernel import unrolled

GROUP = 4  # elements a word
BAND = 4  # rows that lie together where activations are multiplied by element
STEP = 16  # elements of a row that an Arm kernel quantises at a time
UNROLL = 8
# Added to a number of moderate size this leaves it rounded to a whole number in the lowest bits.
ROUND = 1.5 * 2.0**23
ROUND_BITS = 0x4B400000
# Of these bits a rounded number has none; NaN has all.
NOT_FINITE = 0x34800000
# The same in float64, of the upper words there.
WIDE_ROUND = 1.5 * 2.0**52
WIDE_NOT_FINITE = 0x3CC00000
INFINITY = 0x7F800000  # the bits of a float32, without its sign; greater ones are NaN's
SIGNED_OFFSET = 128
WASM = (SIMD128.name, RELAXED.name)
NARROW = "llvm.wasm.narrow.unsigned"
LARGEST = float(np.finfo(np.float32).max)


def padded_depth(k: int) -> int:
    """K as the weights have it: a multiple of what any level's instructions take at a time."""
    return -(-k // 8) * 8


@dataclass(frozen=True)
class QuantizedRows:
    """Up to `rows` rows of k elements in a workspace: their scales, their zero points, their bytes.

    memory: the workspace as int32; as_float: the same memory. nonnegative: whether no element is below zero, as after a
    ReLU: the zero point is then 0, and an element's bits alone say whether it is finite. extremes: where lo and hi of
    every row stand, in place of its own.
    """

    memory: Pointer
    as_float: Pointer
    rows: Expr
    k: int
    isa: Isa
    nonnegative: bool
    extremes: Pointer | None = None

    @staticmethod
    def nbytes(rows: int, k: int, dot: str) -> int:
        rows = -(-rows // STEP) * STEP
        return rows * (2 + _row_words(k, dot)) * 4

    @property
    def banded(self) -> bool:
        return self.isa.by_element

    @property
    def bands(self) -> int:
        """Bands that alternate, so that a tile of eight rows lies in one place."""
        return 1 if self.isa.dot == "mull" else 2

    @property
    def row_words(self) -> int:
        return _row_words(self.k, self.isa.dot)

    def _capacity(self) -> Expr:
        return tirx.truncdiv(self.rows + (STEP - 1), STEP) * STEP

    def scale(self, row: Expr, lanes: int = 1) -> Expr:
        return self.as_float.load(row, lanes)

    def zero(self, row: Expr, lanes: int = 1) -> Expr:
        """The zero point; less 128 where products are of signed numbers."""
        return self.memory.load(self._capacity() + row, lanes)

    @property
    def end(self) -> Expr:
        """The first word behind them."""
        return self._capacity() * (2 + self.row_words)

    def at(self, row: Expr) -> Expr:
        """The word where a row begins; where they are banded, the band that `row` is the first of."""
        if not self.banded:
            return 2 * self._capacity() + row * self.row_words
        rows = self.bands * BAND
        tile, band = tirx.truncdiv(row, rows), tirx.truncmod(tirx.truncdiv(row, BAND), self.bands)
        return 2 * self._capacity() + tile * (rows * self.row_words) + band * STEP

    def word(self, row: int | Expr, group: Expr) -> Expr:
        """Where word `group` of row `row` of a band lies, from its beginning; of a row where it is not banded."""
        if not self.banded:
            return group * (2 if self.isa.dot == "maddwd" else 1)
        if self.bands == 1:
            return group * BAND + row
        step, inside = tirx.truncdiv(group, STEP // GROUP), tirx.truncmod(group, STEP // GROUP)
        begin = step * (self.bands * STEP)
        if self.isa.dot == "smmla":
            return begin + tirx.truncdiv(inside, 2) * (2 * BAND) + row * 2 + tirx.truncmod(group, 2)
        return begin + inside * BAND + row

    def quantize(self, x: Pointer, ldx: Expr, registers: Any) -> None:
        offset = self._offset()
        if self.banded:
            with loop(tirx.truncdiv(self.rows + (BAND - 1), BAND)) as band:
                self._band(x, ldx, band * BAND, offset, registers)
        else:
            with loop(self.rows) as row:
                self._row(x, bind(row * ldx), row, offset, registers)
        if self.extremes is None:
            with loop(self.rows) as row, when((self.memory.load(row) & integer(0x7FFFFFFF)) > INFINITY):
                self._infinite(x, bind(row * ldx), row, offset, registers)

    def _offset(self) -> Expr:
        """What is taken off elements and zero points: 128 where products are of signed numbers."""
        if self.isa.dot != "relaxed":
            return const(SIGNED_OFFSET if self.banded else 0)
        ones, top = (broadcast(tirx.const(n, "int8"), 16) for n in (1, -128))
        product = lane(relaxed_dot(ones, top, integer(0, 4)), 0)  # 4 · 128, or 4 · −128
        return bind(tirx.Select(product < 0, const(SIGNED_OFFSET), const(0)))

    def _row(self, x: Pointer, start: Expr, row: Expr, offset: Expr, registers: Any) -> None:
        lanes, whole = self.isa.lanes, self.k // self.isa.lanes
        (seen,), (tail,) = registers(1, lanes, "int32"), registers(1, 1, "int32")
        low, high = self._extremes(x, start, registers)
        inverse, zero = self._factors(low, high, offset)
        seen.store(0, integer(0, lanes), lanes)
        tail.store(0, integer(0))
        at = bind(self.at(row))

        def quantized(element: Expr, width: int) -> Expr:
            if self.isa == SIMD128 and width == lanes:
                return _rounded_in_float64([x.load(start + element + i, 2) for i in (0, 2)], inverse, zero, seen)
            value = x.load(start + element, width)
            rounded = fma(value, broadcast(inverse, width), broadcast(zero, width), width, self.isa)
            bits = bind(tirx.reinterpret("int32" if width == 1 else f"int32x{width}", rounded))
            if not self.nonnegative:
                where = seen if width == lanes else tail
                where.store(0, where.load(0, width) | bits, width)
            return bits

        def store(v: Expr, vectors: int) -> None:
            bits = [quantized((v + i) * lanes, lanes) for i in range(vectors)]
            place = at + self.word(0, v * (lanes // GROUP))
            if vectors == 1:
                self._store_words(place, *bits)
            else:
                self.memory.store(place, self._filled(bits), lanes)

        # So many vectors make one.
        together = {"relaxed": GROUP, "maddwd": GROUP // 2}.get(self.isa.dot, 1) if lanes == GROUP else 1
        unroll = min(UNROLL, whole or 1) // together or 1
        unrolled(whole // together, unroll, lambda v, u: store((v + u) * together, together))
        for v in range(whole - whole % together, whole):
            store(v, 1)
        for first in range(whole * lanes, self.k, GROUP):
            bits = [quantized(k, 1) for k in range(first, min(first + GROUP, self.k))]
            for i, word in enumerate(self._words(bits)):
                self.memory.store(at + self.word(0, first // GROUP) + i, word)
        finite = high <= const(LARGEST)
        if not self.nonnegative:
            bits = fold_lanes(seen.load(0, lanes), lanes, lambda a, b: a | b)
            not_finite = WIDE_NOT_FINITE if self.isa == SIMD128 else NOT_FINITE
            finite = ((bits & integer(not_finite)) | (tail.load(0) & integer(NOT_FINITE))) == 0
        self._keep(row, low, high, zero, finite)

    def _band(self, x: Pointer, ldx: Expr, first: Expr, offset: Expr, registers: Any) -> None:
        """Four rows side by side. Past the last row the last one is read again: nothing is kept of those."""
        starts, factors = [], []
        for i in range(BAND):
            row = bind(tirx.min(first + i, self.rows - 1))
            starts.append(bind(row * ldx))
            low, high = self._extremes(x, starts[i], registers)
            inverse, zero = self._factors(low, high, offset)
            factors.append((inverse, zero))
            self._keep(first + i, low, high, zero, finite=True)
        at = bind(self.at(first))

        def quantized(i: int, element: Expr, width: int) -> Expr:
            inverse, zero = (broadcast(f, width) for f in factors[i])
            rounded = fma(x.load(starts[i] + element, width), inverse, zero, width, self.isa)
            return bind(tirx.reinterpret("int32" if width == 1 else f"int32x{width}", rounded))

        def step(s: Expr, u: int) -> None:
            words = []
            for i in range(BAND):
                parts = [quantized(i, (s + u) * STEP + p, 4) for p in range(0, STEP, 4)]
                whole = tirx.Shuffle(parts, list(range(STEP)))
                words.append(bind(tirx.reinterpret("int32x4", tirx.Cast(f"int8x{STEP}", whole))))
            order = [r * 4 + g for g in range(4) for r in range(BAND)]
            if self.isa.dot == "smmla":
                order = [r * 4 + 2 * h + g for h in range(2) for r in range(BAND) for g in range(2)]
            self.memory.store(at + (s + u) * (self.bands * STEP), tirx.Shuffle(words, order), STEP)

        whole = self.k // STEP
        unrolled(whole, 1, step)
        for element in range(whole * STEP, self.k, GROUP):
            for i in range(BAND):
                bits = [quantized(i, k, 1) for k in range(element, min(element + GROUP, self.k))]
                (word,) = self._words(bits)
                self.memory.store(at + self.word(i, tirx.const(element // GROUP, "int32")), word)

    def _infinite(self, x: Pointer, start: Expr, row: Expr, offset: Expr, registers: Any) -> None:
        """A row whose scale is NaN: with one infinity and no NaN it is the infinity's sign, times an infinite scale."""
        inner = tirx.truncmod(row, BAND) if self.banded else integer(0)
        at = bind(self.at(row - inner))
        zero = bind(integer(0 if self.nonnegative else 1) - tirx.Cast("int32", offset))
        (found,) = registers(1, 1, "int32")
        found.store(0, integer(0))

        def element(k: Expr) -> Expr:
            bits = bind(tirx.reinterpret("int32", x.load(start + k)))
            size = bind(bits & integer(0x7FFFFFFF))
            count = tirx.Select(size == INFINITY, integer(1), tirx.Select(size > INFINITY, integer(2), integer(0)))
            found.store(0, found.load(0) + count)
            sign = tirx.Select(bits < 0, integer(-1), integer(1))
            return bind(zero + tirx.Select(size == INFINITY, sign, integer(0)))

        def store(group: Expr, elements: int) -> None:
            for i, word in enumerate(self._words([element(group * GROUP + i) for i in range(elements)])):
                self.memory.store(at + self.word(inner, group) + i, word)

        with loop(self.k // GROUP) as group:
            store(group, GROUP)
        if self.k % GROUP:
            store(integer(self.k // GROUP), self.k % GROUP)
        with when(found.load(0) == 1):
            self.memory.store(row, integer(INFINITY))
            self.memory.store(self._capacity() + row, zero)

    def _extremes(self, x: Pointer, start: Expr, registers: Any) -> tuple[Expr, Expr]:
        """min(0, min x) and max(0, max x) of a row, in two chains each."""
        if self.extremes is not None:
            return bind(self.extremes.load(0)), bind(self.extremes.load(1))
        lanes, whole = self.isa.lanes, self.k // self.isa.lanes
        if self.nonnegative and not self.banded:
            return const(0.0), self._greatest(x, start, registers)
        lows, highs = registers(2, lanes), registers(2, lanes)
        for register in (*lows, *highs):
            register.store(0, const(0.0, lanes), lanes)

        def step(v: Expr, u: int) -> None:
            value = bind(x.load(start + (v + u) * lanes, lanes))
            low, high = lows[u % 2], highs[u % 2]
            if not self.nonnegative:
                low.store(0, self._min(low.load(0, lanes), value, lanes), lanes)
            high.store(0, self._max(high.load(0, lanes), value, lanes), lanes)

        unrolled(whole, min(UNROLL, whole or 1), step)
        low = self._fold(self._min(lows[0].load(0, lanes), lows[1].load(0, lanes), lanes), "fminv", tirx.min)
        high = self._fold(self._max(highs[0].load(0, lanes), highs[1].load(0, lanes), lanes), "fmaxv", tirx.max)
        for k in range(whole * lanes, self.k):
            value = bind(x.load(start + k))
            low, high = bind(self._min(low, value, 1)), bind(self._max(high, value, 1))
        return low, high

    def _greatest(self, x: Pointer, start: Expr, registers: Any) -> Expr:
        """The greatest of a row's elements, none of them negative; NaN before infinity before numbers."""
        lanes, whole, chains = self.isa.lanes, self.k // self.isa.lanes, registers(2, self.isa.lanes, "uint32")

        def bits(element: Expr, width: int) -> Expr:
            return tirx.reinterpret("uint32" if width == 1 else f"uint32x{width}", x.load(start + element, width))

        for register in chains:
            register.store(0, broadcast(tirx.const(0, "uint32"), lanes), lanes)

        def step(v: Expr, u: int) -> None:
            chain = chains[u % 2]
            chain.store(0, tirx.max(chain.load(0, lanes), bits((v + u) * lanes, lanes)), lanes)

        unrolled(whole, min(UNROLL, whole or 1), step)
        greatest = fold_lanes(tirx.max(*(c.load(0, lanes) for c in chains)), lanes, tirx.max)
        for k in range(whole * lanes, self.k):
            greatest = bind(tirx.max(greatest, bits(k, 1)))
        return bind(tirx.reinterpret("float32", greatest))

    def _factors(self, low: Expr, high: Expr, offset: Expr) -> tuple[Expr, Expr]:
        """254 / r, and the zero point with what rounds a number added to it."""
        span = bind(self._max(high - low, const(float(SMALLEST_RANGE)), 1))
        inverse = bind(const(float(STEPS)) / span)
        return inverse, bind(fma(const(0.0) - low, inverse, const(ROUND), 1, self.isa) - offset)

    def _keep(self, row: Expr, low: Expr, high: Expr, zero: Expr, finite: Any) -> None:
        span = bind(self._max(high - low, const(float(SMALLEST_RANGE)), 1))
        scale = span * const(float(np.float32(1.0 / STEPS)))
        usable = tirx.all(span <= const(LARGEST), finite)
        self.as_float.store(row, tirx.Select(usable, scale, const(float("nan"))))
        self.memory.store(self._capacity() + row, tirx.reinterpret("int32", zero) - integer(ROUND_BITS))

    def _words(self, bits: list[Expr]) -> list[Expr]:
        """One group of up to four rounded elements as words, zeros after the last."""
        mask = integer(0xFFFF if self.isa.dot == "maddwd" else 0xFF)
        parts = [b & mask for b in bits] + [integer(0)] * (GROUP - len(bits))
        if self.isa.dot == "maddwd":
            return [parts[i] | (parts[i + 2] << integer(16)) for i in range(2)]
        return [parts[0] | (parts[1] << integer(8)) | (parts[2] << integer(16)) | (parts[3] << integer(24))]

    def _store_words(self, at: Expr, bits: Expr) -> None:
        lanes = self.isa.lanes
        if self.isa.dot != "maddwd":
            packed = tirx.reinterpret(f"int32x{lanes // GROUP}", tirx.Cast(f"int8x{lanes}", bits))
            self.memory.store(at, packed, lanes // GROUP)
            return
        half = lanes // 2
        if self.isa.name in WASM:
            self.memory.store(at, tirx.Shuffle([self._filled([bits, bits])], [0, 1]), half)
            return
        first = tirx.Shuffle([bits], [g * GROUP + i for g in range(lanes // GROUP) for i in (0, 1)])
        third = tirx.Shuffle([bits], [g * GROUP + i for g in range(lanes // GROUP) for i in (2, 3)])
        packed = (first & integer(0xFFFF, half)) | (third << integer(16, half))
        self.memory.store(at, packed, half)

    def _filled(self, bits: list[Expr]) -> Expr:
        """One vector of the words of two vectors of elements, or where words are of bytes, of four."""
        if self.isa.dot == "maddwd" and self.isa.name in WASM:
            if self.isa == RELAXED:
                bits = [tirx.Shuffle([b], [0, 2, 1, 3]) & integer(0xFFFF, GROUP) for b in bits]
            return tirx.reinterpret("int32x4", tirx.call_llvm_pure_intrin("int16x8", NARROW, *bits))
        if self.isa.dot == "maddwd":
            numbers = [tirx.reinterpret("int16x8", b) for b in bits]
            return tirx.reinterpret("int32x4", tirx.Shuffle(numbers, [0, 4, 2, 6, 8, 12, 10, 14]))
        low = [b & integer(0xFF, GROUP) for b in bits]
        halves = [tirx.call_llvm_pure_intrin("int16x8", NARROW, *low[i : i + 2]) for i in (0, 2)]
        return tirx.reinterpret("int32x4", tirx.call_llvm_pure_intrin("int8x16", NARROW, *halves))

    # Arm's own minimum and maximum keep NaN; elsewhere what follows finds it.

    def _min(self, a: Expr, b: Expr, lanes: int) -> Expr:
        return _intrinsic("llvm.minimum", lanes, a, b) if self.banded else tirx.min(a, b)

    def _max(self, a: Expr, b: Expr, lanes: int) -> Expr:
        return _intrinsic("llvm.maximum", lanes, a, b) if self.banded else tirx.max(a, b)

    def _fold(self, vector: Expr, across: str, combine: Any) -> Expr:
        if self.banded:
            return bind(_intrinsic(f"llvm.aarch64.neon.{across}.f32.v4f32", 1, vector))
        return fold_lanes(vector, self.isa.lanes, combine)


def _rounded_in_float64(halves: list[Expr], inverse: Expr, zero: Expr, seen: Pointer) -> Expr:
    """Four elements · inverse and what rounds them, where no multiply-add rounds once: the product is exact there.

    Returns the first, third, second and fourth as whole numbers, and adds all words of the four sums to `seen`.
    """
    factor, addend = tirx.Cast("float64", inverse), tirx.Cast("float64", zero)
    addend = bind(addend + tirx.const(WIDE_ROUND - ROUND, "float64"))
    sums = []
    for half in halves:
        rounded = tirx.Cast("float64x2", half) * broadcast(factor, 2) + broadcast(addend, 2)
        sums.append(bind(tirx.reinterpret("int64x2", rounded)))
    words = tirx.reinterpret("int32x4", sums[0] | sums[1])
    seen.store(0, seen.load(0, 4) | words, 4)
    lower, shift = (broadcast(tirx.const(n, "int64"), 2) for n in (0xFFFFFFFF, 32))
    return bind(tirx.reinterpret("int32x4", (sums[0] & lower) | (sums[1] << shift)))


def relaxed_dot(weights: Expr, activations: Expr, total: Expr) -> Expr:
    """total + Σ of four products of bytes a lane, of signed weights."""
    name = "llvm.wasm.relaxed.dot.i8x16.i7x16.add.signed"
    return tirx.call_llvm_pure_intrin("int32x4", name, weights, activations, total)


def _intrinsic(name: str, lanes: int, *operands: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("float32" if lanes == 1 else f"float32x{lanes}", name, *operands)


def _row_words(k: int, dot: str) -> int:
    """A row's words; a multiple of 64 bytes, that rows begin at cache lines."""
    words = padded_depth(k) // GROUP * (2 if dot == "maddwd" else 1)
    return -(-words // 16) * 16
