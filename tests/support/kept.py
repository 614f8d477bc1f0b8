"""Files that took long to make, kept for whoever asks for the same again, in whichever process."""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any


def keep(folder: Path, key: Any, place: Path, make: Callable[[], Any]) -> None:
    """`place`, a file or a folder, as `make` leaves it, or left it before for a key of the same `repr`."""
    kept = folder / hashlib.sha256(repr(key).encode()).hexdigest()
    if kept.exists():
        _copy(kept, place)
        return
    make()
    folder.mkdir(parents=True, exist_ok=True)
    own = kept.with_name(f"{kept.name}-{os.getpid()}-{threading.get_ident()}")
    _copy(place, own)
    try:
        own.rename(kept)
    except OSError:  # a folder that another process has put there
        shutil.rmtree(own)


def _copy(source: Path, to: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, to)
    else:
        shutil.copyfile(source, to)


def keep_kernels(compile_kernels: Callable[..., list[Path]], folder: Path) -> Callable[..., list[Path]]:
    """`compile_kernels` that compiles none again for the same target: a kernel's name says what it does."""

    @wraps(compile_kernels)
    def once(named: Any, target: Any, work: Path, cpu: Any = None, dump: Path | None = None) -> list[Path]:
        if dump:
            return compile_kernels(named, target, work, cpu, dump)
        for name, kernel in named.items():
            make = partial(compile_kernels, {name: kernel}, target, work, cpu)
            keep(folder, (name, str(target.llvm(cpu))), work / f"{name}.o", make)
        return [work / f"{name}.o" for name in named]

    return once
