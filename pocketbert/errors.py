"""The base class of every room's exception, and how another library's error is quoted in a line."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

LONGEST = 800  # characters of a line


class PocketBERTError(Exception):
    """Something the user can mend: the message names what is wrong, its value and the remedy, in one line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, at most 300 characters; its type where none does."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # a terminal's colours
    return next((line.strip()[:300] for line in text.splitlines() if line.strip()), type(error).__name__)


def describe(error: BaseException) -> str:
    """Any error in one line, as command lines show it: what comes from a file cannot steer the terminal."""
    text = _describe(error)
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} … {text[-200:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if disk_is_full(error):
        if isinstance(error, PocketBERTError):
            return text if "disk full" in text else f"disk full: {text}"
        return f"disk full: {getattr(error, 'filename', None) or first_line(error)}; free some space and try again"
    if isinstance(error, PocketBERTError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "out of memory: the build of MobileBERT needs 4 GiB"
    return f"unexpected {type(error).__name__}: {first_line(error)} (--debug shows where)"


def disk_is_full(error: BaseException) -> bool:
    """Whether `error`, or one that it was raised from, reports a full disk, a quota or a limit on a file's size."""
    return any(
        getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _FULL.search(str(e))
        for e in _causes(error)
    )


# As SQLite, LLVM, zig, Rust (safetensors) and torch's writer say it.
_FULL = re.compile(
    r"no space left on device|disk is full|disk quota exceeded|file too large|NoSpaceLeft|FileTooBig"
    r"|inline_container\.cc.*(PytorchStreamWriter|unexpected pos|write failed)",
    re.IGNORECASE | re.DOTALL,
)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
