"""Kernels that touch each token's row once: copy with an epilogue, table lookup, layer normalisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from compile.cpus import Isa
from compile.kernels import epilogue
from compile.kernels.builder import Expr, Kernel, bind, const, fold_lanes, lane, loop
from compile.kernels.contract import ALIGNMENT, ROW_COUNT, TOKEN_COUNT, KernelSpec, Parameter, Signature, tensor, vector
from compile.kernels.math import number_or

# Partial sums of a row, whatever the vectors: every level adds in the same order.
SUM_LANES = 16


def over_columns(columns: int, lanes: int, body: Any) -> None:
    """body(column, width) over a row: whole vectors in a loop, then one element at a time."""
    whole = columns // lanes
    if whole:
        with loop(whole) as v:
            body(v * lanes, lanes)
    for column in range(whole * lanes, columns):
        body(column, 1)


@dataclass(frozen=True)
class Map(KernelSpec):
    """map_{f32|i64}_n{N}_{epilogue}_{isa}: y = epilogue(float(x)). Arguments in C: x, ldx, y, ldy, operands, rows."""

    n: int
    steps: tuple[str, ...]
    isa: Isa
    source: str = "float32"  # x's type: int64 for a mask

    family = "map"

    @property
    def name(self) -> str:
        kind = {"float32": "f32", "int64": "i64"}[self.source]
        return "_".join([f"map_{kind}_n{self.n}", *(self.steps or ("copy",)), self.isa.name])

    def signature(self) -> Signature:
        x = tensor("x", self.n, dtype=self.source)
        return (*x, *tensor("y", self.n, written=True), *epilogue.signature(self.steps, self.n), ROW_COUNT)

    def describe(self) -> str:
        return ", ".join([f"{'element-wise' if self.steps else 'copy'} {self.n}", *epilogue.describe(self.steps)])

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            arguments = kernel.arguments(self.signature())
            x, ldx, y, ldy, rows = (arguments[name] for name in ("x", "ldx", "y", "ldy", "rows"))
            operands = epilogue.operands(self.steps, arguments)
            with loop(rows) as row:

                def body(column: Expr, width: int) -> None:
                    value = x.load(row * ldx + column, width)
                    if self.source != "float32":
                        value = tirx.Cast("float32" if width == 1 else f"float32x{width}", value)
                    value = epilogue.apply(self.steps, operands, value, row, column, width)
                    y.store(row * ldy + column, value, width)

                over_columns(self.n, self.isa.lanes, body)
        return kernel.func


@dataclass(frozen=True)
class PadRows(KernelSpec):
    """pad_f32_n{N}_{before}_{after}_{isa}: zeros in the rows before a tensor's first and in those after its last.

    Arguments in C: y (the first row before it), tokens. What a convolution over tokens sees beyond both ends.
    """

    n: int
    isa: Isa
    before: int = 1
    after: int = 1

    family = "padrows"
    pads_tokens = True

    @property
    def name(self) -> str:
        return f"pad_f32_n{self.n}_{self.before}_{self.after}_{self.isa.name}"

    def signature(self) -> Signature:
        return (Parameter("y", "whole", self.n, written=True), TOKEN_COUNT)

    def describe(self) -> str:
        return f"zero rows {self.n}"

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            y, tokens = kernel.arguments(self.signature()).values()

            def zeros(first: Expr, rows: int) -> None:
                with loop(rows) as row:

                    def body(column: Expr, width: int) -> None:
                        y.store((first + row) * self.n + column, const(0.0, width), width)

                    over_columns(self.n, self.isa.lanes, body)

            zeros(0, self.before)
            zeros(tokens + self.before, self.after)
        return kernel.func


@dataclass(frozen=True)
class RunningSum(KernelSpec):
    """running_sum_{dtype}: y_t = x_0 + … + x_t over the tokens, as positions are counted from a mask.

    Arguments in C: x, y, tokens. One thread goes through all tokens.
    """

    dtype: str

    family = "runningsum"

    @property
    def name(self) -> str:
        return f"running_sum_{self.dtype}"

    def signature(self) -> Signature:
        x, y = (Parameter(name, "whole", 0, self.dtype, written=name == "y") for name in ("x", "y"))
        return (x, y, TOKEN_COUNT)

    def describe(self) -> str:
        return "running sum"

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            x, y, tokens = kernel.arguments(self.signature()).values()
            (total,) = kernel.registers(1, 1, self.dtype)
            total.store(0, tirx.const(0, self.dtype))
            with loop(tokens) as token:
                total.store(0, total.load(0) + x.load(token))
                y.store(token, total.load(0))
        return kernel.func


@dataclass(frozen=True)
class OverTokens(KernelSpec):
    """{sum|mean|max|min}_over_tokens_{dtype}_n{N}_{isa}: y of x_0 … x_{T−1}, as a sentence's embedding is pooled.

    Arguments in C: x, ldx, y, tokens. An extreme of what is not a number is none. One thread adds up all tokens.
    """

    operator: str
    n: int
    dtype: str
    isa: Isa

    family = "overtokens"
    reduces_tokens = True

    @property
    def name(self) -> str:
        return f"{self.operator}_over_tokens_{self.dtype}_n{self.n}_{self.isa.name}"

    def signature(self) -> Signature:
        x = tensor("x", self.n, "whole", dtype=self.dtype)
        return (*x, Parameter("y", "whole", self.n, self.dtype, written=True), TOKEN_COUNT)

    def describe(self) -> str:
        return f"{self.operator} over tokens {self.n}"

    def build(self) -> Any:
        lanes = self.isa.lanes if self.dtype == "float32" else 1
        with Kernel(self.name) as kernel:
            x, ldx, y, tokens = kernel.arguments(self.signature()).values()
            registers = {width: kernel.registers(1, width, self.dtype)[0] for width in {lanes, 1}}

            def body(column: Expr, width: int) -> None:
                total = registers[width]
                total.store(0, x.load(column, width), width)
                with loop(tokens - 1) as token:
                    value = bind(x.load((token + 1) * ldx + column, width))
                    total.store(0, self.combine(bind(total.load(0, width)), value), width)
                result = total.load(0, width)
                if self.operator == "mean":
                    count = tirx.Cast(self.dtype, tokens)
                    result = result / (tirx.Broadcast(count, width) if width > 1 else count)
                y.store(column, result, width)

            over_columns(self.n, lanes, body)
        return kernel.func

    def combine(self, a: Expr, b: Expr) -> Expr:
        if self.operator in ("sum", "mean"):
            return a + b
        extreme = tirx.max if self.operator == "max" else tirx.min
        return number_or(a, b, extreme) if self.dtype == "float32" else extreme(a, b)


@dataclass(frozen=True)
class Gather(KernelSpec):
    """gather_f32_v{V}_n{N}[_panel{K}x{NR}]_{epilogue}_{isa}: y = epilogue(table[ids]), ids (rows, 1), table (V, N).

    Arguments in C: ids, table, y, ldy, operands, rows. An id outside the table reads its first or last row: the
    runtime refuses such ids before it starts, this only keeps computed ids inside the table.

    panel: (K, NR) where the table is the first N rows of a linear's packed weight, [V/NR][K][NR], as it is where the
    embedding is tied to the output layer: one token's row is a strided walk, and the table need not exist twice.
    """

    table_rows: int
    n: int
    steps: tuple[str, ...]
    isa: Isa
    panel: tuple[int, int] | None = None

    family = "gather"

    @property
    def name(self) -> str:
        panel = f"_panel{self.panel[0]}x{self.panel[1]}" if self.panel else ""
        return "_".join([f"gather_f32_v{self.table_rows}_n{self.n}{panel}", *self.steps, self.isa.name])

    def signature(self) -> Signature:
        ids = Parameter("ids", "rows", 1, "int64", align=8)
        table = Parameter("table", "table", self.table_rows * self.n, align=ALIGNMENT)
        operands = epilogue.signature(self.steps, self.n)
        return (ids, table, *tensor("y", self.n, written=True), *operands, ROW_COUNT)

    def describe(self) -> str:
        return ", ".join([f"lookup {self.table_rows} × {self.n}", *epilogue.describe(self.steps)])

    def reading_panels(self, panel: tuple[int, int]) -> Gather:
        return replace(self, panel=panel)

    def build(self) -> Any:
        with Kernel(self.name) as kernel:
            arguments = kernel.arguments(self.signature())
            ids, table, y, ldy, rows = (arguments[name] for name in ("ids", "table", "y", "ldy", "rows"))
            operands = epilogue.operands(self.steps, arguments)
            with loop(rows) as row:
                last = tirx.const(self.table_rows - 1, "int64")
                inside = tirx.max(tirx.min(ids.load(row), last), tirx.const(0, "int64"))
                index = bind(tirx.Cast("int32", inside))

                def body(column: Expr, width: int) -> None:
                    if self.panel:
                        k, nr = self.panel
                        panel = bind(tirx.truncdiv(index, nr))
                        value = table.load((panel * k + column) * nr + (index - panel * nr))
                    else:
                        value = table.load(index * self.n + column, width)
                    value = epilogue.apply(self.steps, operands, value, row, column, width)
                    y.store(row * ldy + column, value, width)

                if self.panel:
                    with loop(self.n) as column:
                        body(column, 1)
                else:
                    over_columns(self.n, self.isa.lanes, body)
        return kernel.func


@dataclass(frozen=True)
class LayerNorm(KernelSpec):
    """layer_norm_f32_n{N}_{isa}: y = γ (x − μ) / √(σ² + ε) + β over each row; RMSNorm where μ = β = 0 and σ² is x²'s.

    Arguments in C: x, ldx, gamma, beta (if centred), y, ldy, rows. The variance is taken about the mean in a second
    sweep, which costs a read from the first-level cache and keeps float32's accuracy.
    """

    n: int
    epsilon: float
    isa: Isa
    centred: bool = True

    family = "layernorm"

    @property
    def name(self) -> str:
        kind, epsilon = "layer" if self.centred else "rms", f"{self.epsilon:.3e}".replace(".", "p").replace("-", "m")
        return f"{kind}_norm_f32_n{self.n}_eps{epsilon}_{self.isa.name}"

    def signature(self) -> Signature:
        vectors = [vector(name, self.n) for name in ("gamma", "beta")[: 1 + self.centred]]
        return (*tensor("x", self.n), *vectors, *tensor("y", self.n, written=True), ROW_COUNT)

    def describe(self) -> str:
        return f"{'layer' if self.centred else 'RMS'} norm {self.n}"

    def build(self) -> Any:
        lanes = SUM_LANES
        with Kernel(self.name) as kernel:
            arguments = kernel.arguments(self.signature())
            x, ldx, gamma, y, ldy, rows = (arguments[name] for name in ("x", "ldx", "gamma", "y", "ldy", "rows"))
            beta = arguments.get("beta")
            (partial,), (rest,) = kernel.registers(1, lanes), kernel.registers(1, 1)
            with loop(rows) as row:

                def total(term: Any) -> Expr:
                    partial.store(0, const(0.0, lanes), lanes)
                    rest.store(0, const(0.0))

                    def body(column: Expr, width: int) -> None:
                        where = partial if width == lanes else rest
                        where.store(0, where.load(0, width) + term(x.load(row * ldx + column, width), width), width)

                    over_columns(self.n, lanes, body)
                    return bind(fold_lanes(partial.load(0, lanes), lanes, lambda a, b: a + b) + rest.load(0))

                def to_scalar(vector: Expr) -> Expr:
                    return lane(vector, 0) if lanes == 1 else vector

                mean = (
                    bind(to_scalar(total(lambda value, width: value)) * const(1.0 / self.n)) if self.centred else None
                )

                def centred(value: Expr, width: int) -> Expr:
                    if mean is None:
                        return value
                    return value - (tirx.Broadcast(mean, width) if width > 1 else mean)

                def squared(value: Expr, width: int) -> Expr:
                    value = bind(centred(value, width))
                    return value * value

                variance = bind(total(squared) * const(1.0 / self.n))
                scale = bind(const(1.0) / tirx.sqrt(variance + const(self.epsilon)))

                def normalise(column: Expr, width: int) -> None:
                    factor = tirx.Broadcast(scale, width) if width > 1 else scale
                    value = centred(x.load(row * ldx + column, width), width) * factor * gamma.load(column, width)
                    y.store(row * ldy + column, value + beta.load(column, width) if beta else value, width)

                over_columns(self.n, lanes, normalise)
        return kernel.func
