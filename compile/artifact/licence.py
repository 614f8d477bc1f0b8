"""The licence of what a library holds besides the model, for the packages that it goes into."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from compile.errors import CompileError


def licence() -> bytes:
    """The text of PocketBERT's licence: beside its folders, or where pip installed it. Raises CompileError."""
    beside = Path(__file__).parents[2] / "LICENSE"
    if beside.is_file():
        return beside.read_bytes()
    try:
        return next(file for file in files("pocketbert") or () if file.name == "LICENSE").read_binary()
    except (PackageNotFoundError, StopIteration, OSError) as error:
        raise CompileError("the installation of pocketbert lacks its LICENSE: install it again") from error
