"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from pocketbert.errors import PocketBERTError, disk_is_full, first_line


@contextmanager
def written_whole(path: str | Path, error: type[PocketBERTError] = PocketBERTError) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` when the block ends well; until then `path` stays as it was.

    It has a name of its own (`file.name`, in the same folder) for libraries that write to a path. Folders on the way
    are made. Raises `error` where it cannot be written, a full disk included.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:200]}-", delete=False) as file:
            temporary = file.name
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except Exception as failure:
        if isinstance(failure, PocketBERTError) or not (isinstance(failure, OSError) or disk_is_full(failure)):
            raise
        raise error(f"cannot write {path}: {_reason(failure)}; what was there is kept") from failure
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def write_whole(path: str | Path, data: bytes | str, error: type[PocketBERTError] = PocketBERTError) -> None:
    """`data` (text as UTF-8) becomes the file `path`, or `path` stays as it was. Raises `error`."""
    with written_whole(path, error) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def files_written_whole(folder: str | Path, error: type[PocketBERTError] = PocketBERTError) -> Iterator[Path]:
    """An empty folder to write several files in; when the block ends well they move to `folder`, last name first.

    So `m.onnx.data` is there before `m.onnx`, which needs it. Raises `error` as `written_whole` does.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as unfinished:
            yield Path(unfinished)
            for file in sorted(Path(unfinished).iterdir(), reverse=True):
                os.replace(file, folder / file.name)
    except Exception as failure:
        if isinstance(failure, PocketBERTError) or not (isinstance(failure, OSError) or disk_is_full(failure)):
            raise
        raise error(f"cannot write {folder}: {_reason(failure)}; choose another folder") from failure


def _reason(failure: Exception) -> str:
    return "disk full" if disk_is_full(failure) else getattr(failure, "strerror", None) or first_line(failure)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
