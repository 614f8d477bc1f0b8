"""The tuning database as a session writes it and a build reads it, also when it is damaged."""

import json
from pathlib import Path

import pytest

from compile.cpus import CPUS
from compile.databases import Record, read, summary, tile_table
from compile.errors import CompileError
from compile.kernels.tiles import DEFAULT_TILES, TileConfig, TileKey
from compile.targets import TARGETS, with_cpu
from tune.kernels.journal import Journal

CPU = CPUS["x86-64-v3"]
KEY = TileKey("linear", "avx2", "f32", 64, 48)
OTHER = KEY._replace(n=96)
DEFAULT = DEFAULT_TILES["avx2", "f32"]


def record(tile: TileConfig, status: str = "ok", key: TileKey = KEY, cpu: str = CPU.name) -> Record:
    return Record(cpu, key, tile, status, "measured", 0.5, {"rows": 128})


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    written = [record(DEFAULT), record(TileConfig(4, 24, 2), "crash"), record(TileConfig(4, 24), "chosen")]
    journal = Journal(path, CPU)
    for entry in written:
        journal.append(entry)
        assert len(path.read_text().splitlines()) == written.index(entry) + 1  # on the disk before anything else
    assert read(path, CPU).records == written
    text = path.read_text()
    again = Journal(path, CPU)
    assert path.read_text() == text
    assert set(again.trials) == {(KEY, DEFAULT), (KEY, TileConfig(4, 24, 2))}
    assert again.chosen == {KEY: written[2]}


def test_trials_of_a_shape_are_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.jsonl", CPU)
    of_key, of_other = record(DEFAULT), record(DEFAULT, key=OTHER)
    journal.append(of_key)
    journal.append(of_other)
    assert (journal.of(KEY), journal.of(OTHER)) == ([of_key], [of_other])


DAMAGED = [
    "not json",
    "[1, 2]",
    json.dumps({"cpu": CPU.name}),
    record(DEFAULT).to_line().replace('"k": 64', '"k": -64').strip(),
    record(DEFAULT).to_line().replace(f"[6, 16, {DEFAULT.k_unroll}]", '"6x16"').strip(),
    record(DEFAULT).to_line()[:60],
]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_is_named_skipped_and_kept(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(record(DEFAULT).to_line() + line + "\n" + record(TileConfig(4, 24), "chosen").to_line())
    journal = Journal(path, CPU)
    assert len(journal.damaged) == 1
    assert journal.damaged[0].startswith(f"{path}:2: skipped:")
    journal.append(record(TileConfig(5, 16)))
    assert path.read_text().splitlines()[1] == line
    assert len(journal.trials) == 2
    assert list(journal.chosen) == [KEY]


def test_a_writer_killed_within_a_line_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(record(DEFAULT).to_line() + record(TileConfig(4, 24)).to_line()[:40])
    Journal(path, CPU).append(record(TileConfig(5, 16)))
    found = read(path, CPU)
    assert [r.tile for r in found.records] == [DEFAULT, TileConfig(5, 16)]
    assert len(found.damaged) == 1


def test_a_record_for_another_cpu_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(record(DEFAULT).to_line() + record(DEFAULT, cpu="cortex-a76").to_line())
    with pytest.raises(CompileError, match=r"a\.jsonl:2: this record is for cortex-a76 .* not for x86-64-v3"):
        read(path, CPU)


def test_a_build_asks_the_table_and_reports_what_it_got(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        record(TileConfig(4, 24), "chosen").to_line()
        + record(TileConfig(2, 32), "chosen").to_line()  # the later one counts
        + record(TileConfig(3, 24), "ok", OTHER).to_line()  # a trial is no choice
        + "damaged\n"
    )
    table, database = tile_table(path, with_cpu(TARGETS["x86_64-linux"], CPU.name))
    assert table.choose(TileKey("linear", "avx2", "f32", 64, 48)) == TileConfig(2, 32)
    assert table.choose(TileKey("linear", "avx2", "f32", 64, 96)) == DEFAULT
    assert table.choose(TileKey("attention", "avx2", "f32", 64, 48)) == DEFAULT
    found = summary(table, database)
    assert (found.tasks, found.hits, found.measured, found.estimated) == (3, 1, 1, 0)
    assert found.missed == ("linear 64x96", "attention 64x48")
    assert found.damaged == (f"{path}:4: skipped: Expecting value: line 1 column 1 (char 0)",)


def test_levels_that_read_the_same_weights_get_tiles_that_suit_them_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [record(TileConfig(4, 24), "chosen"), record(TileConfig(4, 32), "chosen", OTHER)]
    path.write_text("".join(line.to_line() for line in lines))
    table, database = tile_table(path, TARGETS["x86_64-linux"])  # AVX-512 too: vectors of 16
    assert table.choose(TileKey("linear", "avx2", "f32", 64, 48)) == DEFAULT
    assert table.choose(TileKey("linear", "avx2", "f32", 64, 96)) == TileConfig(4, 32)
    assert summary(table, database).hits == 1


def test_a_missing_database_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"cannot read .*none\.jsonl: No such file"):
        read(tmp_path / "none.jsonl", CPU)
