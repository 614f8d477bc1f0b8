"""linear_i8_{mr}x{nr}_k{K}_n{N}[_{what is known}][_{epilogue}]_{isa}_{dot}: y = epilogue(x W) by `int8_reference`.

Rows are quantised into the workspace first. Weights are packed in panels of 16 columns, [N/16][K/4][16][4] with zeros
beyond N and K: one copy for all CPUs of an architecture, whatever multiplies them (`cpus.Isa.dot`):

    vnni    four products a lane of unsigned activations and signed weights (vpdpbusd): a broadcast word of activations
    maddwd  the same from two products of 16-bit numbers each (vpmaddwd), never the ones of 8 bits that saturate
    relaxed WebAssembly's like vnni's where an engine has either that or sdot for it: whether it takes activations as
            signed is asked of the instruction itself, once a call
    sdot    four products a lane of signed numbers, the activations one lane of a register that holds four rows
    smmla   2 × 2 sums of eight products: two words of a column are brought side by side by a zip, once a block of rows
    mull    any Arm: two 16-bit products are added (smull, smlal), then pairwise to 32 bits. That overflows only where
            both are −128 · −128; a weight that has two such numbers where they meet gets each product added apart

The panel loop is outermost, as in `linear`: a tile asks for its share of the next panel while it computes this one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from compile.cpus import Cpu, Isa
from compile.kernels import epilogue, int8_reference, reference
from compile.kernels.builder import Expr, Kernel, bind, broadcast, fma, integer, loop, when
from compile.kernels.contract import (
    ALIGNMENT,
    ROW_COUNT,
    WORKSPACE,
    Arrays,
    Parameter,
    Signature,
    TiledKernel,
    pack_vector,
    tensor,
    vector,
)
from compile.kernels.int8_rows import BAND, QuantizedRows, padded_depth, relaxed_dot
from compile.kernels.math import COARSE_UNARY
from compile.kernels.microkernel import CACHE_LINE, FEW_ROWS, for_row_tiles, unrolled
from compile.kernels.tiles import TileConfig, TileKey, default_tile

PANEL = 16  # columns


@dataclass(frozen=True)
class LinearInt8(TiledKernel):
    """Arguments in C: x, ldx, w, scales, sums, y, ldy, [bias], [extremes], each step's operand(s), rows, workspace.

    w is int8; scales (N,) are the weights', sums (N,) int32 are −Σ_k w[k, n]. bias and strides as in `Linear`.
    nonnegative: whether x is known to have no element below zero, so that its zero points are 0;
    static: whether extremes (2,), lo and hi, stand for those of every row, whose elements are whole steps between them;
    apart: whether w is such that two products together may not fit in 16 bits (`overflows_in_pairs`).
    """

    k: int
    n: int
    bias: bool
    steps: tuple[str, ...]
    tile: TileConfig
    isa: Isa
    strides: tuple[int, ...] = ()
    nonnegative: bool = False
    apart: bool = False
    static: bool = False

    family = "linear"
    precision = "i8"

    @property
    def name(self) -> str:
        parts = [f"linear_i8_{self.tile}_k{self.k}_n{self.n}", "nonnegative" * self.nonnegative]
        parts += ["static" * self.static, "apart" * self.apart, "bias" * self.bias, *self.steps]
        parts += ["ld" + "x".join(map(str, self.strides)) if self.strides else "", self.isa.name, self.isa.dot]
        return "_".join(p for p in parts if p)

    def signature(self) -> Signature:
        words = -(-self.n // PANEL) * PANEL * padded_depth(self.k) // 4
        weight = Parameter("w", "weight", words, "int32", align=ALIGNMENT)
        factors = vector("scales", self.n), replace(vector("sums", self.n), dtype="int32")
        bias = [vector("bias", self.n)] * self.bias + [vector("extremes", 2)] * self.static
        operands = epilogue.signature(self.steps, self.n)
        y, workspace = tensor("y", self.n, written=True), replace(WORKSPACE, dtype="int32")
        return (*tensor("x", self.k), weight, *factors, *y, *bias, *operands, ROW_COUNT, workspace)

    def describe(self) -> str:
        return ", ".join([f"int8 linear {self.k} → {self.n}", *["bias"] * self.bias, *epilogue.describe(self.steps)])

    @property
    def adds_tensor(self) -> bool:
        return "add" in self.steps

    def flops(self, rows: int, tokens: int) -> int:
        return 2 * rows * self.k * self.n

    def workspace_bytes(self, rows: int, tokens: int) -> int:
        """For the quantised rows; and where columns are brought side by side, for those of one tile."""
        side_by_side = padded_depth(self.k) * self.tile.nr if self.isa.dot == "smmla" else 0
        return QuantizedRows.nbytes(rows, self.k, self.isa.dot) + side_by_side

    @property
    def weight_bytes(self) -> int:
        return self.k * self.n

    def tile_key(self, tokens: int) -> TileKey:
        return TileKey(self.family, self.isa.name, f"i8_{self.isa.dot}", self.k, self.n)

    def candidate_tiles(self) -> list[TileConfig]:
        """As many accumulators as the registers hold beside a row of weights and an activation, or somewhat fewer."""
        lanes, default = self.isa.lanes, default_tile(self.isa, f"i8_{self.isa.dot}")
        heights = (4, 8) if self.isa.by_element else range(3, 13)
        tiles = [
            TileConfig(mr, nr, unroll)
            for mr in heights
            for nr in range(default.nr // 2, 2 * default.nr + 1, max(lanes, PANEL // 2))
            for unroll in (2, 4, 8)
            if mr * nr <= lanes * (self.isa.registers - 4)
            and 2 * mr * nr >= default.mr * default.nr
            and (PANEL % nr == 0 or nr % PANEL == 0)
        ]
        return [default, *(tile for tile in tiles if tile != default)]

    def for_cpu(self, cpu: Cpu) -> LinearInt8:
        if (self.isa.name, self.isa.dot) == (cpu.isa.name, cpu.isa.dot):
            return self
        return replace(self, isa=cpu.isa, tile=default_tile(cpu.isa, f"i8_{cpu.isa.dot}"))

    def dense(self) -> LinearInt8:
        return replace(self, strides=(self.k, *[self.n] * (len(self.strides) - 1)) if self.strides else ())

    def example(self, rows: int, rng: np.random.Generator) -> tuple[Arrays, NDArray[np.float64]]:
        x, scales = reference.normal(rng, rows, self.k), rng.uniform(0.001, 0.002, self.n).astype(np.float32)
        x = np.maximum(x, 0) if self.nonnegative else x
        weight = rng.integers(-127, 128, (self.k, self.n)).astype(np.int8)
        bias = reference.normal(rng, self.n) if self.bias else None
        operands: Arrays = {"x": x, **weight_operands(weight, scales)}
        if bias is not None:
            operands["bias"] = pack_vector(bias)
        extremes = None
        if self.static:
            x = (np.clip(np.rint(x * 32), -100, 155) / 32).astype(np.float32)
            operands["x"], extremes = x, int8_reference.static_extremes(1 / 32, 100)
            operands["extremes"] = pack_vector(extremes)
        value = int8_reference.linear(x, weight, scales, bias, extremes).astype(np.float64)
        return operands, reference.epilogue(self.steps, value, operands, rng)

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            code = (_Banded if self.isa.by_element else _RowMajor)(self, kernel)
            code.quantized.quantize(code.x, code.ldx, kernel.registers)
            if self.n // self.tile.nr:
                with loop(self.n // self.tile.nr) as group:
                    code.columns(bind(group * self.tile.nr), self.tile.nr)
            if self.n % self.tile.nr:
                code.columns(self.n - self.n % self.tile.nr, self.n % self.tile.nr)
        return kernel.func


class _Code:
    """The code of a kernel as it is written: quantised rows multiplied by some columns of weights."""

    def __init__(self, spec: LinearInt8, kernel: Kernel) -> None:
        self.spec, self.tile, self.isa, self.dot = spec, spec.tile, spec.isa, spec.isa.dot
        arguments = kernel.arguments(spec.signature())
        self.x, self.ldx, self.w, self.scales, self.sums, self.y, self.ldy = (
            arguments[name] for name in ("x", "ldx", "w", "scales", "sums", "y", "ldy")
        )
        self.bias, self.memory = arguments.get("bias"), arguments["workspace"]
        self.operands = epilogue.operands(spec.steps, arguments)
        if spec.strides:
            self.ldx, self.ldy, *others = spec.strides
            self.operands = epilogue.with_strides(self.operands, others)
        self.rows = arguments["rows"]
        self.quantized = QuantizedRows(
            self.memory, self.memory.seen_as("float32"), self.rows, spec.k, spec.isa, spec.nonnegative,
            arguments.get("extremes"),
        )  # fmt: skip
        self.depth = padded_depth(spec.k) // 4  # words
        self.acc = kernel.registers(self.accumulators(), self.isa.lanes, "int32")
        (self.spill,) = kernel.registers(1, self.isa.lanes)

    def finish(self, row: Expr, first: Expr, columns: int, totals: list[Expr], scale: Expr) -> None:
        """Sums of one row, zero points already taken off, to results; scale: the row's, in all lanes."""
        lanes, results = self.isa.lanes, []
        for v, total in enumerate(totals):
            column = first + v * lanes
            value, weight = tirx.Cast(f"float32x{lanes}", total) * scale, self.scales.load(column, lanes)
            steps, operands = self.spec.steps, self.operands
            if self.bias:
                value = fma(value, weight, self.bias.load(column, lanes), lanes, self.isa)
            elif steps[:1] == ("add",) and (first_added := operands[0]):
                other = first_added.pointer.load(row * first_added.stride + column, lanes)
                value, steps, operands = fma(value, weight, other, lanes, self.isa), steps[1:], operands[1:]
            else:
                value = value * weight
            results.append(epilogue.apply(steps, operands, value, row, column, lanes, COARSE_UNARY))
        epilogue.store_columns(self.y, row * self.ldy + first, results, columns, lanes, self.spill)

    def accumulators(self) -> int:
        return self.tile.mr * self.tile.nr // self.isa.lanes

    def weight(self, first: Expr, offset: int, group: Expr, lanes: int) -> Expr:
        """Word `group` of columns from first + offset on; what lies in one panel with `first` lies there as a whole."""
        panel = tirx.truncdiv(first, PANEL) + offset // PANEL
        at = (panel * self.depth + group) * PANEL + tirx.truncmod(first, PANEL) + offset % PANEL
        return self.w.load(at, lanes)

    def bytes_of(self, words: Expr) -> Expr:
        return tirx.reinterpret(f"int8x{4 * self.isa.lanes}", words)

    def clear(self, count: int) -> None:
        for total in self.acc[:count]:
            total.store(0, integer(0, self.isa.lanes), self.isa.lanes)

    def add(self, index: int, intrinsic: str, *operands: Expr) -> None:
        lanes, total = self.isa.lanes, self.acc[index]
        result = tirx.call_llvm_pure_intrin(f"int32x{lanes}", intrinsic, total.load(0, lanes), *operands)
        total.store(0, result, lanes)


def product_of_pairs(a: Expr, b: Expr, lanes: int) -> Expr:
    """Of two 16-bit numbers in each lane the products' sum, where no instruction has it."""
    half = integer(16, lanes)
    return ((a << half) >> half) * ((b << half) >> half) + (a >> half) * (b >> half)


class _RowMajor(_Code):
    """x86 and WebAssembly: a word of activations is broadcast from memory and multiplied by vectors of weights."""

    def columns(self, first: Expr, columns: int) -> None:
        lanes, mr = self.isa.lanes, self.tile.mr
        vectors = -(-columns // lanes)

        def tile(row: Expr, height: int) -> None:
            if self.spec.nonnegative:
                self.clear(height * vectors)
            for i in range(0 if self.spec.nonnegative else height):
                zero = bind(broadcast(self.quantized.zero(row + i), lanes))
                for v in range(vectors):
                    self.acc[i * vectors + v].store(0, zero * self.sums.load(first + v * lanes, lanes), lanes)
            ahead = self.prefetch_next_panel(first, columns, tirx.truncdiv(row, mr)) if height == mr else None
            unroll = self.tile.k_unroll if height == mr else 1

            def step(k: Expr, u: int) -> None:
                if ahead and u == 0:
                    ahead(k)
                b = [self.factors(bind(self.weight(first, v * lanes, k + u, lanes))) for v in range(vectors)]
                for i in range(height):
                    at = self.quantized.at(row + i) + self.quantized.word(0, k + u)
                    words = [
                        bind(self.bytes_of(broadcast(self.quantized.memory.load(at + p), lanes)))
                        for p in range(len(b[0]))
                    ]
                    for v in range(vectors):
                        for word, weight in zip(words, b[v], strict=True):
                            self.multiply(i * vectors + v, word, weight)

            unrolled(self.depth, unroll, step)
            for i in range(height):
                scale = bind(broadcast(self.quantized.scale(row + i), lanes))
                totals = [a.load(0, lanes) for a in self.acc[i * vectors :][:vectors]]
                self.finish(row + i, first, columns, totals, scale)

        for_row_tiles(self.rows, mr, tile)

    def factors(self, words: Expr) -> list[Expr]:
        """What multiplies a group's words of activations."""
        if self.dot in ("vnni", "relaxed"):
            return [self.bytes_of(words)]
        half = f"int16x{2 * self.isa.lanes}"
        pairs, eight = tirx.reinterpret(half, words), broadcast(tirx.const(8, "int16"), 2 * self.isa.lanes)
        return [bind((pairs << eight) >> eight), bind(pairs >> eight)]

    def multiply(self, index: int, activations: Expr, weights: Expr) -> None:
        lanes = self.isa.lanes
        if self.dot == "vnni":
            self.add(index, f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", activations, weights)
            return
        if self.dot == "relaxed":
            total = self.acc[index]
            total.store(0, relaxed_dot(weights, activations, total.load(0, lanes)), lanes)
            return
        name = {
            "simd128": "llvm.wasm.dot",
            "relaxed": "llvm.wasm.dot",
            "sse": "llvm.x86.sse2.pmadd.wd",
            "avx2": "llvm.x86.avx2.pmadd.wd",
            "avx512": "llvm.x86.avx512.pmaddw.d.512",
        }.get(self.isa.name)
        if name:
            words = tirx.reinterpret(f"int16x{2 * lanes}", activations)
            product = tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, words, weights)
        else:
            a, b = (tirx.reinterpret(f"int32x{lanes}", value) for value in (activations, weights))
            product = product_of_pairs(a, b, lanes)
        total = self.acc[index]
        total.store(0, total.load(0, lanes) + product, lanes)

    def prefetch_next_panel(self, first: Expr, columns: int, tile: Expr) -> Callable[[Expr], None]:
        panels, unroll = -(-columns // PANEL), self.tile.k_unroll
        share = bind(tirx.truncdiv(panels * self.depth * self.tile.mr, self.rows))
        start = bind((tirx.truncdiv(first, PANEL) + panels) * self.depth * PANEL + tile * share * CACHE_LINE)
        lines = -(-self.tile.mr * panels * unroll // FEW_ROWS)  # an iteration

        def each(k: Expr) -> None:
            for line in range(lines):
                self.w.prefetch(start + tirx.truncdiv(k, unroll) * (lines * CACHE_LINE) + line * CACHE_LINE)

        return each


class _Banded(_Code):
    """Arm: tiles of four or eight rows, activations packed a band of four rows at a time."""

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


def pack_int8(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """(K, N) row-major -> [N/16][K/4][16][4], zeros beyond N and K."""
    k, n = weight.shape
    panels, depth = -(-n // PANEL), padded_depth(k)
    padded = np.zeros((depth, panels * PANEL), np.int8)
    padded[:k, :n] = weight
    return np.ascontiguousarray(padded.reshape(depth // 4, 4, panels, PANEL).transpose(2, 0, 3, 1))


def overflows_in_pairs(weight: NDArray[np.int8]) -> bool:
    """Whether a column of (K, N) has −128 at k and k + 4 of the same eight, which `mull` multiplies side by side."""
    k, n = weight.shape
    lowest = np.zeros((padded_depth(k), n), np.bool_)
    lowest[:k] = weight == -128
    return bool(lowest.reshape(-1, 2, 4, n).all(axis=1).any())


def weight_operands(weight: NDArray[np.int8], scales: NDArray[np.float32]) -> Arrays:
    """A kernel's w, scales and sums, from (K, N) and (N,)."""
    sums = -weight.sum(axis=0, dtype=np.int32)
    return {"w": pack_int8(weight), "scales": pack_vector(scales), "sums": pack_vector(sums)}
