"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pocketbert.errors import PocketBERTError, disk_is_full, first_line
from pocketbert.temporary import TemporaryFolder


@contextmanager
def written_whole(path: str | Path, error: type[PocketBERTError] = PocketBERTError) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` when the block ends well; until then `path` stays as it was.

    It has a name of its own (`file.name`, on the same disk) for libraries that write to a path. Folders on the way
    are made. Raises `error` where it cannot be written, a full disk included.
    """
    try:
        path = _place(_named(path, error), error)
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFolder(path.parent) as folder:
            with open(folder / path.name, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, path)
    except Exception as failure:
        if isinstance(failure, PocketBERTError) or not (isinstance(failure, OSError) or disk_is_full(failure)):
            raise
        raise error(f"cannot write {path}: {_reason(failure)}; what was there is kept") from failure


def write_whole(path: str | Path, data: bytes | str, error: type[PocketBERTError] = PocketBERTError) -> None:
    """`data` (text as UTF-8) becomes the file `path`, or `path` stays as it was. Raises `error`."""
    with written_whole(path, error) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def digest(path: str | Path, error: type[PocketBERTError] = PocketBERTError) -> str:
    """The sha256 of a file's content, in hexadecimal. Raises `error`."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as failure:  # a name with a NUL
        raise error(f"cannot read {path}: {_reason(failure)}") from failure


@contextmanager
def files_written_whole(folder: str | Path, error: type[PocketBERTError] = PocketBERTError) -> Iterator[Path]:
    """An empty folder to write several files in; when the block ends well they move to `folder`, last name first.

    So `m.onnx.data` is there before `m.onnx`, which needs it. Raises `error` as `written_whole` does.
    """
    folder = _named(folder, error)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFolder(folder) as unfinished:
            yield unfinished
            for file in sorted(unfinished.iterdir(), reverse=True):
                os.replace(file, _place(folder / file.name, error))
    except Exception as failure:
        if isinstance(failure, PocketBERTError) or not (isinstance(failure, OSError) or disk_is_full(failure)):
            raise
        raise error(f"cannot write {folder}: {_reason(failure)}; choose another folder") from failure


def _named(path: str | Path, error: type[PocketBERTError]) -> Path:
    if "\0" in str(path):
        raise error(f"cannot write {str(path)!r}: no file's name holds a NUL; choose another")
    return Path(path)


def _place(path: Path, error: type[PocketBERTError]) -> Path:
    """Where a link leads, so that it stays one. Raises `error` where a folder or a device would be replaced."""
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise error(f"cannot write {path}: it is not a file; choose another place")
    return place


def _reason(failure: Exception) -> str:
    return "disk full" if disk_is_full(failure) else getattr(failure, "strerror", None) or first_line(failure)
