"""The artifact folder: written beside its place and renamed, so it is whole or absent."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from compile.artifact.manifest import FILE, is_sealed
from compile.artifact.signature import SIGNATURE
from compile.errors import CompileError
from pocketbert.errors import PocketBERTError
from pocketbert.reading import parse_json, read_text
from pocketbert.temporary import TemporaryFolder, locked

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`; takes its place when the block ends well, and leaves nothing when it does not.

    Raises CompileError if `out` cannot be written, or holds anything that no build made.
    """
    place = require_replaceable(out)
    new_parents = [p for p in place.parents if not p.exists()]
    try:
        with _folder_beside(place) as temporary:
            yield temporary
            temporary.chmod(0o755)
            with locked(place.parent):
                _replace(require_replaceable(place), temporary)  # asked again: minutes have passed
    finally:
        _remove_empty(new_parents)


def require_replaceable(out: Path) -> Path:
    """Where `out` is, symbolic links followed.

    Raises CompileError unless that is free, an empty folder, or an artifact folder and nothing but its files.
    """
    try:
        place = out.resolve()
        str(place).encode()
        if not os.path.lexists(place):
            return place
        if place.is_dir() and (Path.cwd().is_relative_to(place) or place.is_mount()):
            raise CompileError(
                f"--out {out} is a mount point, or the folder that this command runs in: a build puts a new folder in "
                "its place; choose one inside it"
            )
        problem = _foreign(place)
    except UnicodeError as error:
        raise CompileError(f"--out {out}: not UTF-8, which compilers read names in: choose another") from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
        raise CompileError(f"--out {out} cannot be used ({error}): choose another") from error
    if problem:
        raise CompileError(f"--out {out} {problem}: nothing was removed; choose another, or remove it yourself")
    return place


def _foreign(place: Path) -> str:
    """What keeps a build from replacing what is at `place`, or ""."""
    if not place.is_dir():
        return "is not a folder"
    if not any(place.iterdir()):
        return ""
    listed = _listed_files(place / FILE)
    if listed is None:
        return f"is not an artifact folder (it holds {min(p.name for p in place.iterdir())!r})"
    if not listed:
        return "is an artifact of an older version, which did not list its files"
    folders = {parent.as_posix() for path in listed for parent in PurePosixPath(path).parents}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_symlink() or name not in (folders if path.is_dir() else listed):
            return f"holds {name!r}, which no build made"
    return ""


def _listed_files(manifest: Path) -> set[str] | None:
    """What a folder holds, as its sealed manifest says; empty if that does not say, None if it is none of ours."""
    try:
        if manifest.is_symlink():
            return None
        text = read_text(manifest)
        data = parse_json(text)
        if not is_sealed(text, data["manifest_sha256"]):
            return None
        return {*data["files"], FILE, SIGNATURE} if "files" in data else set()
    except (PocketBERTError, ValueError, TypeError, LookupError):
        return None


def _folder_beside(place: Path) -> TemporaryFolder:
    try:
        for _ in range(3):  # a build that fails may just have removed the parents that it had made
            with suppress(FileNotFoundError):
                place.parent.mkdir(parents=True, exist_ok=True)
                return TemporaryFolder(place.parent)
        raise CompileError(f"cannot write to {place.parent}: it was removed meanwhile; choose another --out")
    except OSError as error:
        raise CompileError(f"cannot write to {place.parent}: {error.strerror}; choose another --out") from error


def _replace(out: Path, new: Path) -> None:
    """Put `new` in the place of `out`. What was there goes with the temporary folders, once that has worked."""
    if not out.exists():
        new.rename(out)
    elif not _exchange(new, out):
        with TemporaryFolder(out.parent) as aside:
            out.rename(aside / "old")
            try:
                new.rename(out)
            except BaseException:
                (aside / "old").rename(out)
                raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step. Returns whether that was done: not all systems can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE) == 0


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, as far as they are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
