"""JSON and TOML from anywhere: bounded in size, and whatever is wrong is one line that names the place.

Numbers are finite and nesting ends where Python's does; what the values must be is for `pocketbert.typed` to say.
"""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pocketbert.errors import PocketBERTError
from pocketbert.typed import Misfit, typed

T = TypeVar("T")
# Unicode's White_Space, which `tokenizers` cuts off the end of a line; Python's also has the separators 1C to 1F.
WHITE_SPACE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f")
LIMIT = 64 << 20  # bytes of a file whose size nothing else bounds


def read_bytes(path: str | Path, error: type[PocketBERTError] = PocketBERTError, limit: int = LIMIT) -> bytes:
    """A file. Raises `error` if it cannot be read, is a folder, pipe or device, or exceeds `limit` bytes."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise error(f"{path} is not a file")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as failure:  # a name with a NUL
        raise error(f"cannot read {path}: {getattr(failure, 'strerror', failure)}") from failure
    if len(data) > limit:
        raise error(f"{path} is larger than {limit >> 20} MiB: not a file of this kind")
    return data


def read_text(
    path: str | Path, error: type[PocketBERTError] = PocketBERTError, limit: int = LIMIT, errors: str = "strict"
) -> str:
    """A file of UTF-8. Raises `error` as `read_bytes` does, or where it is not UTF-8."""
    try:
        return read_bytes(path, error, limit).decode(errors=errors)
    except UnicodeDecodeError as failure:
        raise error(f"{path}: not UTF-8 at byte {failure.start + 1}") from failure


def parse_json(text: str) -> Any:
    """Raises ValueError, whose message is one line: what json.loads says, NaN, Infinity, too deep."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as failure:
        raise ValueError("nested too deeply") from failure


def read_json(path: str | Path, error: type[PocketBERTError] = PocketBERTError, limit: int = LIMIT) -> Any:
    """What a JSON file holds. Raises `error`, with the line where it breaks off being JSON."""
    text = read_text(path, error, limit)
    try:
        return parse_json(text)
    except json.JSONDecodeError as failure:
        raise error(f"{path}:{failure.lineno}: not JSON at column {failure.colno}: {failure.msg}") from failure
    except ValueError as failure:
        raise error(f"{path}: not JSON: {failure}") from failure


def read_typed_json(
    kind: type[T], path: str | Path, error: type[PocketBERTError] = PocketBERTError, limit: int = LIMIT
) -> T:
    """A JSON file as a `kind` (see `typed`). Raises `error` with the key that does not fit."""
    value = read_json(path, error, limit)
    try:
        return typed(kind, value)
    except Misfit as failure:
        raise error(f"{path}: {failure}") from failure


def read_toml(path: str | Path, error: type[PocketBERTError] = PocketBERTError) -> dict[str, Any]:
    """What a TOML file holds. Raises `error`."""
    text = read_text(path, error)
    try:
        return tomllib.loads(text)
    except ValueError as failure:  # also for a number of thousands of digits
        raise error(f"{path}: {failure}") from failure
    except RecursionError as failure:
        raise error(f"{path}: nested too deeply") from failure


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text[:20]} is beyond every number")
    return value
