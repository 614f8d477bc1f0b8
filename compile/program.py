"""The compiler's own view of a model: a list of kernel calls over row-major tensors.

A `Value` is a tensor in memory; a `View` is how one kernel addresses it, or a part of it, as rows × columns. Calls are
in an order that respects their data; `plan` decides where values live and which calls run side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compile.kernels.contract import KernelSpec

Kind = Literal["input", "output", "temporary", "weight"]


@dataclass(eq=False)
class Value:
    """A dense row-major tensor of `shape`, as the graph sees it."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    data: NDArray[Any] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class View:
    """`rows` × `columns` elements of `value`, the first at `offset` and rows `stride` elements apart."""

    value: Value
    rows: int
    columns: int
    stride: int
    offset: int = 0

    @classmethod
    def of(cls, value: Value, rows: int, columns: int) -> View:
        """All of `value` as rows × columns."""
        return cls(value, rows, columns, columns)

    @property
    def whole(self) -> bool:
        return self.offset == 0 and self.stride == self.columns and self.rows * self.columns == self.value.size

    def part(self, column: int, columns: int) -> View:
        """The same rows, `columns` of their columns from `column`."""
        return View(self.value, self.rows, columns, self.stride, self.offset + column)

    def row(self, index: int) -> View:
        return View(self.value, 1, self.columns, self.stride, self.offset + index * self.stride)


# A call's arguments, in the order of the kernel's C signature.


@dataclass(frozen=True)
class Rows:
    """Pointer to the first row of the block that is being computed.

    neighbours: whether the kernel reads rows beyond the block too (a convolution over tokens does).
    """

    view: View
    neighbours: bool = False


@dataclass(frozen=True)
class Whole:
    """Pointer to the start of the view, whichever rows are being computed: all of it must be there."""

    view: View


@dataclass(frozen=True)
class Number:
    """An int32 known at compile time."""

    value: int


@dataclass(frozen=True)
class RowCount:
    """How many rows the block has."""


@dataclass(frozen=True)
class FirstRow:
    """Which row the block's first is."""


@dataclass(frozen=True)
class TokenCount:
    """How many tokens the sequence has."""


@dataclass(frozen=True)
class Workspace:
    """Pointer to the thread's workspace, `nbytes` of it."""

    nbytes: int


Argument = Rows | Whole | Number | RowCount | FirstRow | TokenCount | Workspace


@dataclass(frozen=True)
class Shared:
    """An operand by rows of which all rows of a block read the first: its stride is 0."""

    view: View


Operand = View | Rows | Shared


def arguments_of(kernel: KernelSpec, operands: Mapping[str, Operand], rows: int, tokens: int) -> tuple[Argument, ...]:
    """What `kernel` is called with over `rows` rows, in the order of its signature; operands: by parameter's name."""
    arguments: list[Argument] = []
    stride = 0
    for parameter in kernel.signature():
        match parameter.role:
            case "row_count":
                arguments.append(RowCount())
            case "first_row":
                arguments.append(FirstRow())
            case "token_count":
                arguments.append(TokenCount())
            case "workspace":
                arguments.append(Workspace(kernel.workspace_bytes(rows, tokens)))
            case "stride":
                arguments.append(Number(stride))
            case role:
                operand = operands[parameter.name]
                view = operand if isinstance(operand, View) else operand.view
                stride = 0 if isinstance(operand, Shared) else view.stride
                if role != "rows" or isinstance(operand, Shared):
                    arguments.append(Whole(view))
                else:
                    arguments.append(operand if isinstance(operand, Rows) else Rows(view))
    return tuple(arguments)


@dataclass(frozen=True, eq=False)
class Call:
    """One kernel over `rows` rows. `outputs` are written, all other views read. `source` names the graph's node."""

    kernel: KernelSpec
    arguments: tuple[Argument, ...]
    outputs: tuple[Value, ...]
    rows: int
    source: str
    flops: int = 0
    per_token: bool = False  # whether its rows are tokens, by where they come from

    @property
    def takes_blocks(self) -> bool:
        """Whether the kernel can be given some of its rows at a time."""
        return any(isinstance(a, RowCount) for a in self.arguments)

    def reads(self) -> list[tuple[Value, bool]]:
        """Values read, each with whether the kernel needs all of it whichever rows it computes."""
        return [
            (a.view.value, isinstance(a, Whole) or a.neighbours)
            for a in self.arguments
            if isinstance(a, Rows | Whole) and a.view.value not in self.outputs
        ]


@dataclass(frozen=True)
class InputRange:
    """Values that an integer input may take: low ≤ value < high. What lies outside would be read out of bounds."""

    low: int
    high: int


@dataclass
class Program:
    """A whole model. `tokens` is the sequence length that it was compiled for.

    The calls compute one sequence; a run of the library makes them for each of up to `batch`.
    """

    tokens: int
    batch: int = 1
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    ranges: dict[str, InputRange] = field(default_factory=dict)
    generic: list[tuple[str, str]] = field(default_factory=list)  # (operator, why no kernel of ours took it)

    @property
    def elastic(self) -> bool:
        """Whether the calls compute a sequence of any length up to `tokens`, exactly as a model for that length would.

        They do where every call either goes token by token, or works on the one row of the first token, or of all
        tokens makes one row, or works on such rows; and what goes token by token is an output under a shape that still
        has the tokens as a dimension.
        """
        by_token = {value for call in self.calls if call.per_token for value in call.outputs}
        by_row = {*by_token, *(value for value in self.inputs if self.tokens in value.shape)}
        rows = {value: value.size // self.tokens for value in by_row}
        if any(math.prod(value.shape[: value.shape.index(self.tokens)]) != 1 for value in by_row & {*self.inputs}):
            return False  # the tokens of a shorter one would lie elsewhere
        pooled: set[Value] = set()  # as large for any number of tokens
        for call in self.calls:
            values = [*call.outputs, *(value for value, _ in call.reads())]
            made = {value for value, _ in call.reads() if value.kind != "weight"}
            of_pooled = bool(made) and made <= pooled and not call.per_token
            of_pooled = of_pooled and all(self.tokens not in value.shape for value in values)
            if not (call.per_token or of_pooled or _first_row_only(call, rows)):
                return False
            if of_pooled or call.kernel.reduces_tokens or (call.rows == 1 and call.takes_blocks and not call.per_token):
                pooled.update(call.outputs)
        return all(self.tokens in value.shape for value in self.outputs if value in by_token)

    def interface_shape(self, value: Value) -> tuple[int, ...]:
        """An in- or output's shape for the largest batch."""
        return (self.batch, *value.shape[1:]) if self.batch > 1 else value.shape

    @property
    def weights(self) -> list[Value]:
        """Each once, in the order of their first use."""
        return list(dict.fromkeys(v for call in self.calls for v, _ in call.reads() if v.kind == "weight"))

    @property
    def kernels(self) -> dict[str, KernelSpec]:
        return {call.kernel.name: call.kernel for call in self.calls}


def _first_row_only(call: Call, columns: Mapping[Value, int]) -> bool:
    """Whether the call reads nothing beyond the first token's row of what has one for each; `columns` says how long."""
    if any(isinstance(a, TokenCount) for a in call.arguments):
        return True
    views = [a.view for a in call.arguments if isinstance(a, Rows)]
    wholes = [a.view for a in call.arguments if isinstance(a, Whole) and a.view.value.kind != "weight"]
    inside = all(view.offset + view.columns <= columns.get(view.value, view.value.size) for view in views)
    return call.takes_blocks and call.rows == 1 and not wholes and inside
