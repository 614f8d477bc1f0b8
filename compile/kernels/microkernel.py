"""The register-tiled inner product that every matrix kernel here is made of.

A tile of rows × (vectors · lanes) accumulators is updated by rank-1 products: one element of each activation row times
one row of weights. Everything is unrolled in Python, so LLVM sees straight-line fused multiply-adds. Activations are
read where they are, or, where a multiply-add can take one lane of a register, from copies packed for that (`packing`).
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from compile.cpus import Isa
from compile.kernels.builder import Expr, Pointer, bind, broadcast, loop, when

CACHE_LINE = 16  # elements of four bytes
# A block of so many rows asks for the whole next panel of weights; a lower one for as much as it has time to.
FEW_ROWS = 16

Factors = Callable[[Expr, int], list[Expr]]


def unrolled(extent: Expr, unroll: int, body: Callable[[Expr, int], None]) -> None:
    """body(k, u) for every k + u < extent, `unroll` an iteration: k is a multiple of it, u < unroll is known."""
    whole = extent // unroll if isinstance(extent, int) else bind(tirx.truncdiv(extent, unroll))
    with loop(whole) as outer:
        for u in range(unroll):
            body(outer * unroll, u)
    rest = extent - whole * unroll
    if not isinstance(rest, int) or rest > 0:
        with loop(rest) as k:
            body(whole * unroll + k, 0)


def multiply_accumulate(
    acc: list[Pointer],
    vectors: int,
    isa: Isa,
    depth: Expr,
    unroll: int,
    factors: Factors,
    weight: Callable[[int, Expr], Expr],
    each: Callable[[Expr], None] | None = None,
) -> None:
    """acc[i · vectors + v] += Σ_k factors(k)[i] · weight(v, k) for k < depth.

    factors(k, u) gives element k + u of every activation row, where k is a multiple of `unroll` and u < unroll is
    known; weight(v, k) loads one vector of row k. depth may be an expression (the number of tokens); what `unroll`
    does not divide runs one step at a time. each(k) comes before every step whose k is such a multiple.
    """

    def step(k: Expr, u: int) -> None:
        if each and u == 0:
            each(k)
        b = [bind(weight(v, k + u)) for v in range(vectors)]
        for i, factor in enumerate(factors(k, u)):
            a = bind(broadcast(factor, isa.lanes))
            for v in range(vectors):
                total = acc[i * vectors + v]
                total.store(0, total.load(0, isa.lanes) + a * b[v], isa.lanes)

    unrolled(depth, unroll, step)


def for_row_tiles(rows: Expr, mr: int, body: Callable[[Expr, int], None]) -> None:
    """Cover `rows` rows with tiles: body(first row, tile height) is emitted once for each height that can occur.

    Tiles are mr high, then 4, 2 and 1. A short remainder would leave a tile too low to hide the multiply-add's latency,
    so where one tall tile and the remainder make 8 or 9 rows, those are taken as 4 + 4 (+ 1).
    """
    tall = bind(tirx.truncdiv(rows, mr))
    if mr in (5, 6):
        over = bind(rows - tall * mr + mr)
        tall = bind(tall - tirx.Select(tirx.all(over >= 8, over <= 9, rows >= 8), 1, 0))
    with loop(tall) as tile:
        body(tile * mr, mr)
    first = bind(tall * mr)
    for height in (4, 2, 1):
        if height >= mr:
            continue
        left = bind(rows - first)
        if height == 1:
            with when(left >= 1):
                body(first, 1)
        else:
            count = bind(tirx.truncdiv(left, height))
            start = first
            with loop(count) as tile:
                body(start + tile * height, height)
            first = bind(first + count * height)
