"""The register-tiled inner product that every matrix kernel here is made of.

A tile of `rows` × (`vectors` · lanes) accumulators is updated by rank-1 products: one element of each activation row
times one row of weights. Everything is unrolled in Python, so LLVM sees straight-line fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from compile.kernels.builder import Expr, Pointer, bind, broadcast, lane, loop, when
from compile.targets import Isa


def multiply_accumulate(
    acc: list[Pointer],
    rows: int,
    vectors: int,
    isa: Isa,
    depth: Expr,
    unroll: int,
    activation: Callable[[int, Expr, int], Expr],
    weight: Callable[[int, Expr], Expr],
) -> None:
    """acc[i · vectors + v] += Σ_k activation(i, k) · weight(v, k) for k < depth.

    activation(i, k, width) loads `width` consecutive elements of row i from k; weight(v, k) one vector of row k.
    depth may be an expression (the number of tokens); what `unroll` does not divide runs one step at a time.
    """

    def step(k: Expr, factors: Callable[[int], Expr]) -> None:
        b = [bind(weight(v, k)) for v in range(vectors)]
        for i in range(rows):
            a = bind(broadcast(factors(i), isa.lanes))
            for v in range(vectors):
                total = acc[i * vectors + v]
                total.store(0, total.load(0, isa.lanes) + a * b[v], isa.lanes)

    def unrolled(first: Expr) -> None:
        if isa.by_element and unroll % isa.lanes == 0:
            for chunk in range(0, unroll, isa.lanes):
                a = [bind(activation(i, first + chunk, isa.lanes)) for i in range(rows)]
                for u in range(isa.lanes):
                    step(first + chunk + u, _lanes(a, u))
        else:
            for u in range(unroll):
                step(first + u, _elements(activation, first + u))

    whole = depth // unroll if isinstance(depth, int) else tirx.truncdiv(depth, unroll)
    with loop(whole) as outer:
        unrolled(outer * unroll)
    rest = depth - whole * unroll
    if not isinstance(rest, int) or rest > 0:
        with loop(rest) as k:
            step(whole * unroll + k, _elements(activation, whole * unroll + k))


def _lanes(vectors: list[Expr], index: int) -> Callable[[int], Expr]:
    return lambda i: lane(vectors[i], index)


def _elements(activation: Callable[[int, Expr, int], Expr], k: Expr) -> Callable[[int], Expr]:
    return lambda i: activation(i, k, 1)


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
