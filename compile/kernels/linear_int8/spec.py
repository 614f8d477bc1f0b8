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

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.cpus import Cpu, Isa
from compile.kernels import epilogue, int8_reference, reference
from compile.kernels.builder import Kernel, bind, loop
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
from compile.kernels.int8_rows import QuantizedRows, padded_depth
from compile.kernels.linear_int8.banded import Banded
from compile.kernels.linear_int8.row_major import RowMajor
from compile.kernels.linear_int8.weights import PANEL, weight_operands
from compile.kernels.tiles import TileConfig, TileKey, default_tile


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
            code = (Banded if self.isa.by_element else RowMajor)(self, kernel)
            code.quantized.quantize(code.x, code.ldx, kernel.registers)
            if self.n // self.tile.nr:
                with loop(self.n // self.tile.nr) as group:
                    code.columns(bind(group * self.tile.nr), self.tile.nr)
            if self.n % self.tile.nr:
                code.columns(self.n - self.n % self.tile.nr, self.n % self.tile.nr)
        return kernel.func
