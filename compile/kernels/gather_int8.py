"""gather_i8_v{V}_n{N}_{epilogue}_{isa}: y = epilogue(scales[id] · table[id]), an embedding with one scale a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from compile.cpus import Isa
from compile.kernels import epilogue
from compile.kernels.builder import Expr, Kernel, bind, broadcast, loop
from compile.kernels.contract import ALIGNMENT, ROW_COUNT, KernelSpec, Parameter, Signature, tensor
from compile.kernels.rowwise import over_columns


@dataclass(frozen=True)
class GatherInt8(KernelSpec):
    """Arguments in C: ids (rows, 1), table (V, N) int8, scales (V,), y, ldy, operands, rows. Ids as in `Gather`."""

    table_rows: int
    n: int
    steps: tuple[str, ...]
    isa: Isa

    family = "gather"
    precision = "i8"

    @property
    def name(self) -> str:
        return "_".join([f"gather_i8_v{self.table_rows}_n{self.n}", *self.steps, self.isa.name])

    def signature(self) -> Signature:
        ids = Parameter("ids", "rows", 1, "int64", align=8)
        table = Parameter("table", "table", self.table_rows * self.n, "int8", align=ALIGNMENT)
        scales = Parameter("scales", "table", self.table_rows, align=ALIGNMENT)
        operands = epilogue.signature(self.steps, self.n)
        return (ids, table, scales, *tensor("y", self.n, written=True), *operands, ROW_COUNT)

    def describe(self) -> str:
        return ", ".join([f"int8 lookup {self.table_rows} × {self.n}", *epilogue.describe(self.steps)])

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            arguments = kernel.arguments(self.signature())
            ids, table, scales, y, ldy, rows = (
                arguments[name] for name in ("ids", "table", "scales", "y", "ldy", "rows")
            )
            operands = epilogue.operands(self.steps, arguments)
            with loop(rows) as row:
                last = tirx.const(self.table_rows - 1, "int64")
                inside = tirx.max(tirx.min(ids.load(row), last), tirx.const(0, "int64"))
                index = bind(tirx.Cast("int32", inside))
                scale = bind(scales.load(index))

                def body(column: Expr, width: int) -> None:
                    words, numbers = ("int32", "float32") if width == 1 else (f"int32x{width}", f"float32x{width}")
                    value = tirx.Cast(numbers, tirx.Cast(words, table.load(index * self.n + column, width)))
                    value = bind(value * broadcast(scale, width))
                    value = epilogue.apply(self.steps, operands, value, row, column, width)
                    y.store(row * ldy + column, value, width)

                over_columns(self.n, self.isa.lanes, body)
        return kernel.func
