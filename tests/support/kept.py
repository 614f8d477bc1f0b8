"""Files that took long to make, kept for whoever asks for the same again, in whichever process."""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def keep(folder: Path, key: Any, place: Path, make: Callable[[], Any]) -> None:
    """`place` as `make` leaves it, or left it before for a key of the same `repr`."""
    kept = folder / hashlib.sha256(repr(key).encode()).hexdigest()
    if kept.exists():
        shutil.copyfile(kept, place)
        return
    make()
    folder.mkdir(parents=True, exist_ok=True)
    own = kept.with_name(f"{kept.name}-{os.getpid()}-{threading.get_ident()}")
    shutil.copyfile(place, own)
    own.rename(kept)
