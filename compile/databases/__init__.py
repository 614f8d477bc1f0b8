"""Tuning databases: which tile was found to be the fastest for a kernel on a CPU. README.md says how each was obtained.

A database is a text file with one JSON object a line, only ever appended to. Lines whose status is "chosen" are what a
build reads, of those with the same key the last; the others are the history of a tuning session (`python -m tune`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from compile.cpus import Cpu
from compile.errors import CompileError
from compile.kernels.tiles import TileConfig, TileKey, TileTable
from compile.targets import Target
from pocketbert.reading import parse_json, read_text
from pocketbert.typed import between, typed

FOLDER = Path(__file__).parent


Size = Annotated[int, between(1, 1 << 24)]


@dataclass(frozen=True)
class _Line:
    """The keys that every line has. A tile beyond these bounds would take the compiler hours."""

    cpu: str
    family: str
    isa: str
    precision: str
    k: Size
    n: Size
    tile: tuple[Annotated[int, between(1, 64)], Annotated[int, between(1, 256)], Annotated[int, between(1, 64)]]
    status: str
    how: str
    ms: Annotated[float, between(0, 1e9)] | None


@dataclass(frozen=True)
class Record:
    """One line. how: "measured" or "estimated"; ms and gflops are of one call, and of the default tile where it won."""

    cpu: str
    key: TileKey
    tile: TileConfig
    status: str
    how: str
    ms: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        tile = [self.tile.mr, self.tile.nr, self.tile.k_unroll]
        head = {"cpu": self.cpu, **self.key._asdict(), "tile": tile, "status": self.status, "how": self.how}
        return json.dumps(head | {"ms": self.ms} | self.detail) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Record:
        """Raises ValueError if `line` is not what `to_line` wrote."""
        data = parse_json(line)
        names = [f.name for f in fields(_Line)]
        entry = typed(_Line, {k: v for k, v in data.items() if k in names} if isinstance(data, dict) else data)
        key = TileKey(entry.family, entry.isa, entry.precision, entry.k, entry.n)
        detail = {k: v for k, v in data.items() if k not in names}
        return cls(entry.cpu, key, TileConfig(*entry.tile), entry.status, entry.how, entry.ms, detail)


@dataclass
class Database:
    """All records of a file, in order; `damaged` names the lines that were skipped, with the reason."""

    path: Path
    records: list[Record] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> dict[TileKey, Record]:
        return {record.key: record for record in self.records if record.status == "chosen"}


def read(path: Path, cpu: Cpu) -> Database:
    """Raises CompileError if the file cannot be read, or holds a record for another CPU."""
    database = Database(path)
    for number, line in _lines(path):
        try:
            record = Record.from_line(line)
        except ValueError as error:
            database.damaged.append(f"{path}:{number}: skipped: {error}")
            continue
        if record.cpu != cpu.name or record.key.isa != cpu.isa.name:
            raise CompileError(
                f"{path}:{number}: this record is for {record.cpu} ({record.key.isa}), not for {cpu.name} "
                f"({cpu.isa.name}): give that CPU's database with --db, or its name with --cpu"
            )
        database.records.append(record)
    return database


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(path, CompileError, errors="replace").splitlines(), 1):
        if line.strip():
            yield number, line


def tile_table(path: Path | None, target: Target) -> tuple[TileTable, Database]:
    """The tiles that a build takes from `path`; None is no database.

    A tile whose panels are no whole vectors at one of the target's levels is left out: all read the same weights.
    """
    database = read(path, target.cpu) if path else Database(Path())
    lanes = max(cpu.isa.lanes for cpu in target.levels)
    fitting = {key: record.tile for key, record in database.chosen.items() if record.tile.nr % lanes == 0}
    return TileTable(fitting), database


@dataclass(frozen=True)
class TuningSummary:
    """What a build asked for, and what the database had. database: its file's name; missed, damaged: in words."""

    tasks: int
    hits: int
    measured: int
    estimated: int
    missed: tuple[str, ...]
    damaged: tuple[str, ...]
    database: str | None = None


def summary(table: TileTable, database: Database) -> TuningSummary:
    missed = tuple(f"{key.family} {key.k}x{key.n}" for key, hit in table.asked.items() if not hit)
    used = [database.chosen[key].how for key, hit in table.asked.items() if hit]
    return TuningSummary(
        tasks=len(table.asked),
        hits=len(used),
        measured=used.count("measured"),
        estimated=used.count("estimated"),
        missed=missed,
        damaged=tuple(database.damaged),
        database=database.path.name or None,
    )


def shipped(cpu: Cpu) -> Path | None:
    """The database that comes with the compiler for `cpu`."""
    path = FOLDER / f"{cpu.name}.jsonl"
    return path if path.exists() else None
