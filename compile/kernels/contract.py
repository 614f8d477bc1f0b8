"""What every kernel family offers, and what its C function takes.

A family is one file: a frozen dataclass derived from `KernelSpec` whose fields are all that its code depends on. The
rest of the compiler asks the kernel and never its class: which arguments it takes, what to call it, what it costs, how
it looks on another CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compile.cpus import Cpu, Isa
from compile.kernels.tiles import TileConfig, TileKey

Role = Literal[
    "rows", "whole", "vector", "weight", "table", "workspace", "stride", "row_count", "token_count", "first_row"
]
POINTERS = ("rows", "whole", "vector", "weight", "table", "workspace")
# Bytes: tensors and weights begin at multiples of a cache line, which is the widest vector, too.
ALIGNMENT = 64
# Bytes after a tensor's last row that a vector kernel may read, never write: up to one vector.
SLACK = 64
# A vector operand is padded to so many elements: every instruction set may read whole panels of it.
VECTOR_PADDING = 64
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Parameter:
    """One argument of a kernel's C function: a pointer, or an int32.

    role: what it points at, or which number it is:
        rows         first row of the block that is being computed
        whole        first row of a tensor, whichever rows are being computed
        vector       a constant with one value a column, padded to VECTOR_PADDING elements
        weight       a constant in the kernel's own layout
        table        a constant of which each row of the result reads one row
        workspace    the thread's own memory, `workspace_bytes` of it
        stride       elements from one row to the next of the operand before it
        row_count    rows in the block
        token_count  tokens in the sequence
        first_row    which row of the sequence the block's first is
    size: elements in a row (TOKENS: one a token); of a constant, in all. align: in bytes, what every caller promises.
    written: whether the kernel writes there.
    """

    name: str
    role: Role
    size: int = 0
    dtype: str = "float32"
    align: int = 4
    written: bool = False

    @property
    def is_pointer(self) -> bool:
        return self.role in POINTERS


Signature = tuple[Parameter, ...]
TOKENS = 0  # the size of what has one element a token
WORKSPACE = Parameter("workspace", "workspace", align=ALIGNMENT)
TOKEN_COUNT = Parameter("tokens", "token_count")
FIRST_ROW = Parameter("first_row", "first_row")
ROW_COUNT = Parameter("rows", "row_count")


def tensor(name: str, columns: int, role: Role = "rows", written: bool = False, dtype: str = "float32") -> Signature:
    """A tensor operand: a pointer, then its row stride `ld{name}`."""
    align = np.dtype(dtype).itemsize
    return Parameter(name, role, columns, dtype, align, written), Parameter(f"ld{name}", "stride")


def vector(name: str, columns: int) -> Parameter:
    return Parameter(name, "vector", -(-columns // VECTOR_PADDING) * VECTOR_PADDING, align=ALIGNMENT)


def pack_vector(values: NDArray[Any], width: int = VECTOR_PADDING) -> NDArray[Any]:
    """(N,) padded with zeros to a multiple of `width`."""
    padded = np.zeros(-(-values.size // width) * width, values.dtype)
    padded[: values.size] = values
    return padded


class KernelSpec(ABC):
    """family: what it computes, as the manifest and the report call it; precision: what it multiplies in."""

    family: ClassVar[str]
    precision: ClassVar[str] = "f32"
    reduces_tokens: ClassVar[bool] = False  # whether its result is as large for any number of tokens
    pads_tokens: ClassVar[bool] = (
        False  # whether its result has a row more before the first token's and after the last's
    )

    @property
    @abstractmethod
    def name(self) -> str:
        """Its contract, and its C function: precision, shape, epilogue, tile, instruction set."""

    @abstractmethod
    def signature(self) -> Signature:
        """The C function's arguments, in order; the same for every tile and for every CPU of a target."""

    @abstractmethod
    def build(self) -> Any:
        """The PrimFunc: pointers and int32 in, nothing out, no allocation, no state."""

    @abstractmethod
    def describe(self) -> str:
        """In words: what it computes, with its epilogue."""

    @property
    def adds_tensor(self) -> bool:
        """Whether a tensor with a row a token, a residual, is added to what it computes."""
        return False

    @property
    def tile_name(self) -> str | None:
        return None

    def flops(self, rows: int, tokens: int) -> int:
        """2 × multiply-adds of one call; 0 where the time goes elsewhere."""
        return 0

    def workspace_bytes(self, rows: int, tokens: int) -> int:
        """The memory that a call over up to `rows` rows wants of its thread."""
        return 0

    def tile_key(self, tokens: int) -> TileKey | None:
        """What its register tile is chosen by; None if it has none (a `TiledKernel` has)."""
        return None

    def for_cpu(self, cpu: Cpu) -> KernelSpec:
        """The same kernel for another CPU, reading the same weights; itself where nothing changes."""
        isa = getattr(self, "isa", cpu.isa)
        return self if isa == cpu.isa else replace(self, isa=cpu.isa)  # type: ignore[type-var]

    def table_panel(self, weight: NDArray[Any], table: NDArray[Any]) -> tuple[int, int] | None:
        """(K, NR) if `weight`, packed for this kernel as [V/NR][K][NR], begins with `table`, which is (V, N), N ≤ K."""
        return None

    def reading_panels(self, panel: tuple[int, int]) -> KernelSpec | None:
        """This lookup, with its table at the beginning of such a weight; None if it is no lookup in a table."""
        return None


class TiledKernel(KernelSpec):
    """A kernel whose register tile is chosen by its shape: what tuning searches."""

    isa: Isa
    tile: TileConfig

    @abstractmethod
    def tile_key(self, tokens: int) -> TileKey: ...

    @abstractmethod
    def candidate_tiles(self) -> list[TileConfig]:
        """Tiles that it can have, the default first."""

    @property
    def tile_name(self) -> str:
        return str(self.tile)

    @property
    def weight_bytes(self) -> int:
        """What one call reads of weights, without padding."""
        return 0

    def with_tile(self, tile: TileConfig) -> TiledKernel:
        return replace(self, tile=tile)  # type: ignore[type-var]

    def dense(self) -> TiledKernel:
        """The same kernel over tensors whose rows lie one behind another, as in a trial."""
        return self

    @abstractmethod
    def example(self, rows: int, rng: np.random.Generator) -> tuple[Arrays, NDArray[np.float64]]:
        """Random operands by name, weights as the kernel reads them, and the answer in float64."""
