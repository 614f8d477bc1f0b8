"""Which register tile a linear kernel uses: a table keyed by ISA, precision and shape, with a default per ISA.

MR rows of activations by NR columns of weights are accumulated in registers; NR is also the width of a packed weight
panel. `k_unroll` is how many steps of the inner product one iteration takes. Where multiply-adds take one lane of a
register (Arm), activations are packed by fours: MR is then 4 or 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from compile.cpus import Isa


@dataclass(frozen=True)
class TileConfig:
    """mr × nr float32 accumulators; nr is a multiple of the ISA's lanes."""

    mr: int
    nr: int
    k_unroll: int = 1

    def __str__(self) -> str:
        return f"{self.mr}x{self.nr}"


# Accumulators, one row of weights and the activations must fit the registers (`Isa.registers`).
DEFAULT_TILES: dict[tuple[str, str], TileConfig] = {
    ("avx2", "f32"): TileConfig(6, 16, k_unroll=8),
    ("avx512", "f32"): TileConfig(8, 32, k_unroll=8),
    ("neon", "f32"): TileConfig(8, 12, k_unroll=16),
    ("neon32", "f32"): TileConfig(4, 8, k_unroll=4),
    ("sse", "f32"): TileConfig(6, 8, k_unroll=4),
    # An unrolled step's loads all come before its products: what is not unrolled does not spill.
    ("simd128", "f32"): TileConfig(4, 8),
    ("relaxed", "f32"): TileConfig(4, 8),
    ("rv64", "f32"): TileConfig(2, 8, k_unroll=4),
    ("rvv128", "f32"): TileConfig(8, 8, k_unroll=4),
    # int8 by what multiplies; k_unroll counts words of four elements.
    ("avx512", "i8_vnni"): TileConfig(6, 64, k_unroll=4),
    ("avx512", "i8_maddwd"): TileConfig(5, 64, k_unroll=2),
    ("avx2", "i8_vnni"): TileConfig(6, 16, k_unroll=4),
    ("avx2", "i8_maddwd"): TileConfig(4, 16, k_unroll=2),
    ("sse", "i8_maddwd"): TileConfig(2, 16, k_unroll=2),
    ("simd128", "i8_maddwd"): TileConfig(8, 4, k_unroll=2),
    ("relaxed", "i8_maddwd"): TileConfig(8, 4, k_unroll=2),
    ("relaxed", "i8_relaxed"): TileConfig(4, 8),
    ("neon32", "i8_maddwd"): TileConfig(2, 8, k_unroll=2),
    ("rv64", "i8_maddwd"): TileConfig(2, 8, k_unroll=2),
    ("rvv128", "i8_maddwd"): TileConfig(6, 8, k_unroll=2),
    ("neon", "i8_sdot"): TileConfig(8, 8, k_unroll=16),
    ("neon", "i8_smmla"): TileConfig(8, 8, k_unroll=16),
    ("neon", "i8_mull"): TileConfig(8, 4, k_unroll=2),
}


# By registers: enough to hide a multiply-add's latency, and few enough to fit.
ACCUMULATORS = {32: 16, 16: 12, 12: 8, 8: 4}


def default_tile(isa: Isa, precision: str = "f32") -> TileConfig:
    return DEFAULT_TILES[isa.name, precision]


class TileKey(NamedTuple):
    """What a tile is chosen by. k, n: a linear's K and N; an attention's head size and number of tokens."""

    family: str
    isa: str
    precision: str
    k: int
    n: int


@dataclass
class TileTable:
    """`tuned` tiles where there are any, else the default; `asked` is whether each key was found there."""

    tuned: Mapping[TileKey, TileConfig] = field(default_factory=dict)
    asked: dict[TileKey, bool] = field(default_factory=dict)

    def choose(self, key: TileKey) -> TileConfig:
        self.asked[key] = key in self.tuned
        return self.tuned.get(key) or DEFAULT_TILES[key.isa, key.precision]


def tile_of_width(width: int, isa: Isa, k_unroll: int) -> TileConfig:
    """A tile for panels of `width` columns."""
    return TileConfig(ACCUMULATORS[isa.registers] * isa.lanes // width or 1, width, k_unroll)


def candidate_tiles(isa: Isa, precision: str = "f32") -> list[TileConfig]:
    """Tiles that fit the registers and have enough accumulators to hide a multiply-add's latency, default first.

    Registers hold the accumulators, one row of weights, and one activation; or, where multiply-adds take one lane, the
    packed activations of all rows.
    """
    default = default_tile(isa, precision)
    tiles = []
    for mr in range(1, 17):
        for vectors in range(1, 9):
            if isa.by_element and mr not in (4, 8):
                continue
            activations = mr // 4 if isa.by_element else 1
            fits = mr * vectors + vectors + activations <= isa.registers
            if fits and mr * vectors >= isa.registers // 2:
                tiles += [TileConfig(mr, vectors * isa.lanes, unroll) for unroll in (4, 8, 16)]
    return [default, *(tile for tile in tiles if tile != default)]
