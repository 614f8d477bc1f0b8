"""Tiles: that they fit the registers of their instruction set, and which one a kernel gets."""

from itertools import product

import pytest

from compile.cpus import CPUS, Isa
from compile.kernels.linear_int8 import LinearInt8
from compile.kernels.tiles import (
    DEFAULT_TILES,
    TileConfig,
    TileKey,
    TileTable,
    candidate_tiles,
    default_tile,
    tile_of_width,
)

SETS = sorted({cpu.isa.name: cpu.isa for cpu in CPUS.values()}.values(), key=lambda isa: isa.name)
WITH_INT8 = sorted({(cpu.isa.name, cpu.isa.dot): cpu.isa for cpu in CPUS.values()}.items())


@pytest.mark.parametrize("of", SETS, ids=lambda isa: isa.name)
def test_accumulators_a_row_of_weights_and_activations_fit_the_registers(of: Isa) -> None:
    tiles = candidate_tiles(of)
    assert tiles[0] == default_tile(of)
    assert len(tiles) == len(set(tiles)) > 3
    for tile in tiles:
        vectors, rest = divmod(tile.nr, of.lanes)
        activations = tile.mr // 4 if of.by_element else 1
        assert rest == 0
        assert tile.mr * vectors + vectors + activations <= of.registers, tile
        assert not of.by_element or tile.mr in (4, 8)
    shapes = {(tile.mr, tile.nr // of.lanes) for tile in tiles}
    for mr, vectors in product((4, 8) if of.by_element else range(1, 17), range(1, 9)):
        needed = mr * vectors + vectors + (mr // 4 if of.by_element else 1)
        large = mr * vectors >= of.registers // 2
        assert not large or needed > of.registers or (mr, vectors) in shapes  # none that fits is left out


@pytest.mark.parametrize(
    ("name", "of"), WITH_INT8, ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_tiles_of_int8_are_about_as_large_as_their_default(name: tuple[str, str], of: Isa) -> None:
    default = default_tile(of, f"i8_{of.dot}")
    tiles = LinearInt8(64, 64, True, (), default, of).candidate_tiles()
    assert tiles[0] == default
    assert len(tiles) == len(set(tiles)) > 1
    for tile in tiles[1:]:
        assert default.mr * default.nr / 2 <= tile.mr * tile.nr <= of.lanes * (of.registers - 4)
        assert default.nr / 2 <= tile.nr <= 2 * default.nr


def test_a_tuned_tile_is_its_shapes_alone_and_who_asked_is_noted() -> None:
    key = TileKey("linear", "avx2", "f32", 64, 48)
    table = TileTable({key: TileConfig(4, 24)})
    assert table.choose(key) == TileConfig(4, 24)
    for other in (key._replace(k=48), key._replace(n=64), key._replace(isa="avx512"), key._replace(family="attention")):
        assert table.choose(other) == DEFAULT_TILES[other.isa, "f32"]
    assert list(table.asked.values()) == [True, False, False, False, False]


@pytest.mark.parametrize("of", SETS, ids=lambda isa: isa.name)
def test_a_wider_panel_has_fewer_rows(of: Isa) -> None:
    heights = [tile_of_width(vectors * of.lanes, of, 1).mr for vectors in (1, 2, 4, 64)]
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == 1
    assert 4 <= heights[0] * 1 < of.registers
