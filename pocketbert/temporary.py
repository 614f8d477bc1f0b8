"""Temporary folders that never stay: gone when their block ends, or swept by the next process where one was killed.

A lock on the folder says that its process lives. The system drops it with the process, however that ends.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

# Nobody else names a folder so. The process's number is there for people to read.
_NAME = re.compile(r"\.?pocketbert-\d+-\w{8}\.tmp")


class TemporaryFolder:
    """A new, empty folder at `path`, closed to other users: in `parent`, hidden, or where the system keeps such things.

    Use it as a context manager that gives the path, or call `close`; at the latest it goes with the process. Before the
    first one in a place is made, those that dead processes left there are removed. Raises OSError.
    """

    def __init__(self, parent: str | os.PathLike[str] | None = None) -> None:
        place = Path(parent or tempfile.gettempdir()).absolute()
        _sweep_once(place)
        prefix = f"{'.' if parent else ''}pocketbert-{os.getpid()}-"
        while True:
            self.path = place / f"{prefix}{secrets.token_hex(4)}.tmp"
            # First of all, so that a signal while the folder is made leaves none.
            held: list[int | None] = []
            self._remove = weakref.finalize(self, _remove, self.path, held, os.getpid())
            try:
                os.mkdir(self.path, 0o700)
                held.append(_lock(self.path))
            except FileExistsError:
                self._remove.detach()  # it is somebody else's
                continue
            if held != [None]:
                break
            self._remove.detach()  # another process took it for a dead one's in the moment before it was locked

    def close(self) -> None:
        """Remove the folder and what is in it."""
        self._remove()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None:
        self.close()


def sweep(place: Path) -> None:
    """Remove what dead processes of this user left in `place`."""
    with suppress(OSError):
        for entry in list(os.scandir(place)):
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                lock = _lock(Path(entry.path)) if entry.stat(follow_symlinks=False).st_uid == os.getuid() else None
                if lock is not None and lock >= 0:
                    _remove(Path(entry.path), [lock], os.getpid())


_sweep_once = functools.cache(sweep)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Of the processes that lock a folder one at a time is in the block, as far as the file system has locks."""
    descriptor = None
    # A temporary folder is locked already, by its process, which would wait for itself.
    if sys.platform != "win32" and not _NAME.fullmatch(folder.name):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """A file descriptor that holds the folder's lock; -1 where locks cannot be had; None if it is held, or gone."""
    if sys.platform == "win32":
        return -1
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # a file system without locks: nothing is ever taken for a dead process's there
        if descriptor is not None:
            os.close(descriptor)
        return -1
    if descriptor is not None:
        os.close(descriptor)
    return None


def _remove(folder: Path, held: list[int | None], owner: int) -> None:
    """held: the folder's lock, once there is one."""
    if os.getpid() != owner:
        return  # a forked child: the folder is its parent's
    for pause in (0.0, 0.1, 0.5):  # a compiler that was killed may have children that still write
        time.sleep(pause)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    for lock in held:
        if lock is not None and lock >= 0:
            os.close(lock)
