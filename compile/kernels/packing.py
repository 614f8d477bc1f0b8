"""Activation rows copied so that one load brings one column of four rows, for multiply-adds that take a lane.

A tile of `height` rows (four or eight) and K columns becomes [K][height]: a step of the inner product loads
height/4 vectors from one address, where reading the rows themselves would take a load and a pointer for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from tvm import tirx

from compile.kernels.builder import Expr, Pointer, bind, lane, loop, when

GROUP = 4


def padded(depth: Expr) -> Expr:
    """`depth` rounded up to whole groups."""
    return -(-depth // GROUP) * GROUP if isinstance(depth, int) else tirx.truncdiv(depth + GROUP - 1, GROUP) * GROUP


@dataclass(frozen=True)
class PackedTile:
    """`height` packed rows from element `at` of `memory`; of those from `valid` on (all are, if None) none is kept."""

    memory: Pointer
    at: Expr
    height: int
    valid: Expr | None = None

    def pack(self, x: Pointer, start: Expr, stride: Expr, depth: Expr, add: bool = False) -> None:
        """Copy rows of `depth` elements that begin at element `start` of x and lie `stride` apart.

        add: to what is there already.
        """
        whole = 0
        if self.valid is None:
            whole = depth // GROUP if isinstance(depth, int) else bind(tirx.truncdiv(depth, GROUP))
            with loop(whole) as group:
                rows = [bind(x.load(start + i * stride + group * GROUP, GROUP)) for i in range(self.height)]
                for offset, vector in _columns(rows):
                    self._put(self.at + group * GROUP * self.height + offset, vector, GROUP**2, add)
        for row in range(self.height):
            with self.if_valid(row), loop(depth - whole * GROUP) as k:
                at = self.at + (whole * GROUP + k) * self.height + row
                self._put(at, x.load(start + row * stride + whole * GROUP + k), 1, add)

    def set_column(self, k: Expr, x: Pointer, start: Expr, add: bool) -> None:
        """Element k of every row, from one place in x on; add: to what is there."""
        width = GROUP if self.valid is None else 1
        for row in range(0, self.height, width):
            with self.if_valid(row):
                self._put(self.at + k * self.height + row, x.load(start + row, width), width, add)

    def _put(self, at: Expr, value: Expr, width: int, add: bool) -> None:
        self.memory.store(at, self.memory.load(at, width) + value if add else value, width)

    def factors(self, k: Expr, u: int) -> list[Expr]:
        """Element k + u of every row."""
        vectors = [bind(self.vector(k + u, row)) for row in range(0, self.height, GROUP)]
        return [lane(vectors[row // GROUP], row % GROUP) for row in range(self.height)]

    def vector(self, k: Expr, row: int) -> Expr:
        """Element k of the four rows from `row` on."""
        return self.memory.load(self.at + k * self.height + row, GROUP)

    def store(self, k: Expr, row: int, value: Expr) -> None:
        """What `vector` loads."""
        self.memory.store(self.at + k * self.height + row, value, GROUP)

    def if_valid(self, row: int) -> AbstractContextManager[None]:
        return nullcontext() if self.valid is None else when(self.valid > row)


def _columns(rows: list[Expr]) -> Iterator[tuple[int, Expr]]:
    """Four columns of four or eight rows, one below another, in vectors of sixteen elements and where each belongs.

    Sixteen elements are four vectors interleaved, which is one instruction (Arm's st4). With eight rows each of the
    four holds two columns of two rows, which is one more (zip).
    """
    interleaved = [i * GROUP + k for k in range(GROUP) for i in range(GROUP)]
    if len(rows) == GROUP:
        yield 0, tirx.Shuffle(rows, interleaved)
        return
    assert len(rows) == 2 * GROUP, f"a tile of {len(rows)} rows: 4 or 8 can be packed"
    for half in (0, 2):
        columns = [half, GROUP + half, half + 1, GROUP + half + 1]
        pairs = [bind(tirx.Shuffle([rows[i], rows[i + GROUP]], columns)) for i in range(GROUP)]
        yield half * len(rows), tirx.Shuffle(pairs, interleaved)


def for_packed_tiles(
    rows: Expr, height: int, memory: Pointer | None, depth: Expr, body: Callable[[Expr, PackedTile], None]
) -> None:
    """Cover `rows` rows of `depth` elements with tiles, one behind another in `memory`: body(first row, its tile).

    What is left over gets the lowest tile that holds it, so rows past the last are computed there, and dropped.
    """
    assert memory is not None
    size = padded(depth)
    full = bind(tirx.truncdiv(rows, height))
    with loop(full) as tile:
        body(tile * height, PackedTile(memory, tile * height * size, height))
    first = bind(full * height)
    left = bind(rows - first)
    for low in range(0, height, GROUP):
        with when(tirx.all(left > low, left <= low + GROUP)):
            body(first, PackedTile(memory, first * size, low + GROUP, left))
