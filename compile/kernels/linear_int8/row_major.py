"""x86 and WebAssembly: a word of activations is broadcast from memory and multiplied by vectors of weights."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from compile.kernels.builder import Expr, bind, broadcast, integer
from compile.kernels.int8_rows import relaxed_dot
from compile.kernels.linear_int8.code import Code
from compile.kernels.linear_int8.weights import PANEL
from compile.kernels.microkernel import CACHE_LINE, FEW_ROWS, for_row_tiles, unrolled


class RowMajor(Code):
    """A lane of an accumulator is a column."""

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


def product_of_pairs(a: Expr, b: Expr, lanes: int) -> Expr:
    """Of two 16-bit numbers in each lane the products' sum, where no instruction has it."""
    half = integer(16, lanes)
    return ((a << half) >> half) * ((b << half) >> half) + (a >> half) * (b >> half)
