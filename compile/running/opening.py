"""An artifact's library into this process: the very bytes that were hashed. A wheel has `opening_in_wheel` instead."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import operator
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from compile.artifact.manifest import Manifest, Tensor
from compile.errors import CompileError, RunError
from compile.targets import TARGETS, why_not_here, with_cpu
from pocketbert.temporary import TemporaryFolder

__all__ = ["CompileError", "Manifest", "RunError", "Tensor", "open_artifact", "open_library"]


def open_artifact(
    folder: Path, trusted_keys: Iterable[str] | None = None, verify: bool = True
) -> tuple[Manifest, ctypes.CDLL]:
    """What a folder says of its library, and that loaded; verify: if its digest is the one there.

    Raises CompileError.
    """
    manifest = Manifest.read(folder, trusted_keys)
    path = folder / manifest.library
    target = with_cpu(TARGETS[manifest.target], manifest.cpu)
    if reason := why_not_here(target):
        raise CompileError(f"{path} was built for {target.name} ({target.cpu.name}): {reason}")
    if manifest.sanitize:
        raise CompileError(f"{path} was built with --sanitize {manifest.sanitize}: Python cannot load it")
    digest = manifest.sha256 if verify or trusted_keys is not None else None
    return manifest, open_library(path, manifest.sizes.library_bytes, digest)


def open_library(path: Path, size: int, sha256: str | None) -> ctypes.CDLL:
    """The library at `path`, loaded if its size in bytes and its digest, where there is one, are these.

    Whatever takes its name meanwhile is not looked at.

    The loader follows a link to the open file; on macOS it gets a copy. Its name is new each time: by a name that
    it knows the loader would return an older build. Raises CompileError.
    """
    try:
        # Opening a pipe would wait for a writer. Windows has no such flags, and one of its own.
        flags = (getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
        with open(os.open(path, functools.reduce(operator.or_, flags, os.O_RDONLY)), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                raise CompileError(f"{path} is damaged: it is no file of {size} bytes; build it again")
            if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise CompileError(f"{path} is damaged: its sha256 is not the manifest's; build it again")
            if sys.platform == "win32":  # which lets nobody replace a library that is loaded
                return ctypes.CDLL(str(path.resolve()))
            with TemporaryFolder() as folder:
                link = folder / path.name
                if sys.platform == "darwin":
                    file.seek(0)
                    link.write_bytes(file.read())
                else:
                    link.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
                return ctypes.CDLL(str(link))
    except FileNotFoundError as error:
        raise CompileError(f"{path} is missing: build it again") from error
    except OSError as error:
        raise CompileError(f"{path} cannot be loaded: {error.strerror or error}; build it again") from error
