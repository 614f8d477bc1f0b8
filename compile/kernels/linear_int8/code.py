"""What kernels of all instruction sets share: operands, the order of the weights, and what becomes of the sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tvm import tirx

from compile.kernels import epilogue
from compile.kernels.builder import Expr, Kernel, fma, integer
from compile.kernels.int8_rows import QuantizedRows, padded_depth
from compile.kernels.linear_int8.weights import PANEL
from compile.kernels.math import COARSE_UNARY

if TYPE_CHECKING:
    from compile.kernels.linear_int8.spec import LinearInt8


class Code(ABC):
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

    @abstractmethod
    def columns(self, first: Expr, columns: int) -> None:
        """All rows of some columns, of the first's panel or of whole ones."""

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
