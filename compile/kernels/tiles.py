"""Which register tile a linear kernel uses: a table keyed by ISA, precision and shape, with a default per ISA.

MR rows of activations by NR columns of weights are accumulated in registers; NR is also the width of a packed weight
panel. `k_unroll` is how many steps of the inner product one iteration takes: on Arm a multiple of the four activations
that one vector load brings and multiply-adds use by lane.
"""

from __future__ import annotations

from dataclasses import dataclass

from compile.targets import Isa


@dataclass(frozen=True)
class TileConfig:
    """mr × nr float32 accumulators; nr is a multiple of the ISA's lanes."""

    mr: int
    nr: int
    k_unroll: int = 1

    def __str__(self) -> str:
        return f"{self.mr}x{self.nr}"


# Accumulators, one row of weights and the activations must fit the registers: 16 with AVX2, 32 with AVX-512 and NEON.
DEFAULT_TILES: dict[tuple[str, str], TileConfig] = {
    ("avx2", "f32"): TileConfig(6, 16),
    ("avx512", "f32"): TileConfig(4, 64),
    ("neon", "f32"): TileConfig(5, 16, k_unroll=4),
}

# (isa, precision, k, n) -> tile, where measurement found better than the default.
SHAPE_TILES: dict[tuple[str, str, int, int], TileConfig] = {}


def linear_tile(isa: Isa, precision: str, k: int, n: int) -> TileConfig:
    return SHAPE_TILES.get((isa.name, precision, k, n), DEFAULT_TILES[isa.name, precision])
