"""The file that a session writes: every record at once and for good, so that a session killed at any moment goes on."""

from __future__ import annotations

import os
from pathlib import Path

from compile.cpus import Cpu
from compile.databases import Database, Record, read
from compile.kernels.tiles import TileConfig, TileKey
from tune.errors import TuneError


class Journal:
    """A tuning database open for appending. Lines that cannot be read stay where they are; `damaged` names them."""

    def __init__(self, path: Path, cpu: Cpu) -> None:
        database = read(path, cpu) if path.exists() else Database(path)
        self.path, self.damaged = path, database.damaged
        self.chosen = database.chosen
        self.trials: dict[tuple[TileKey, TileConfig], Record] = {
            (r.key, r.tile): r for r in database.records if r.status != "chosen"
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise TuneError(f"--db {path} cannot be written: {error.strerror}") from error
        if path.stat().st_size and path.read_bytes()[-1:] != b"\n":
            self._write(b"\n")  # the last writer was killed within its line

    def append(self, record: Record) -> None:
        """Add `record` and wait until the disk has it."""
        self._write(record.to_line().encode())
        if record.status == "chosen":
            self.chosen[record.key] = record
        else:
            self.trials[record.key, record.tile] = record

    def of(self, key: TileKey) -> list[Record]:
        return [record for (k, _), record in self.trials.items() if k == key]

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
