"""The artifact folder: written beside its place and renamed, so it is whole or absent."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compile.errors import CompileError
from compile.runtime import GENERATED, INCLUDE, SRC


def runtime_sources(folder: Path) -> list[Path]:
    """Copy the runtime into the build folder, beside the generated plan."""
    for directory in (INCLUDE, GENERATED, SRC):
        for file in sorted(directory.glob("*.[ch]")):
            shutil.copy(file, folder / file.name)
    return sorted(folder / source.name for source in SRC.glob("*.c"))


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`; takes its place when the block ends well, and leaves nothing when it does not.

    Raises CompileError if `out` cannot be written, or is a folder that no build made.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "manifest.json").exists())):
        raise CompileError(f"--out {out} exists and is not an artifact folder: choose another, or remove it")
    new_parents = [p for p in out.parents if not p.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        _remove_empty(new_parents)
        raise CompileError(f"cannot write to {out.parent}: {error.strerror}; choose another --out") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        _replace(out, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(new_parents)


def _replace(out: Path, new: Path) -> None:
    """Rename `new` to `out`; what was there before goes only once that has worked."""
    if not out.exists():
        new.rename(out)
        return
    old = new.with_name(f"{new.name}-old")
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, as far as they are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
