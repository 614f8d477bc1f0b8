"""Plain text corpora: a paragraph a line, documents separated by blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import ModelError

# A full stop, exclamation or question mark (and what closes a quotation) before a capital, digit or opening quote.
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])")
INITIALS = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|No|vs|Jr|Sr|Prof|Gen|Col|Sgt|Inc|Ltd|Co)\.$")


LONGEST_LINE = 64 << 20  # bytes


def lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file; raises `ModelError` with file and line number where it is not."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                if len(line) == LONGEST_LINE:
                    raise ModelError(f"{path}:{number}: a line of {LONGEST_LINE >> 20} MiB: this is no text file")
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ModelError(
                        f"{path}:{number}: not UTF-8 at byte {error.start + 1}: convert the file"
                    ) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def documents(paths: Iterable[Path]) -> Iterator[list[str]]:
    """Each document of the files as its sentences, in order; never more than one in memory."""
    for path in paths:
        sentences: list[str] = []
        for line in lines(path):
            if line.strip():
                sentences += split_sentences(line.strip())
            elif sentences:
                yield sentences
                sentences = []
        if sentences:
            yield sentences


def split_sentences(paragraph: str) -> list[str]:
    """Good enough for next-sentence pairs: ends after . ! ? before a capital, not after initials and titles."""
    sentences, start = [], 0
    for match in SENTENCE_END.finditer(paragraph):
        if INITIALS.search(paragraph, start, match.start()) is None:
            sentences.append(paragraph[start : match.end()].strip())
            start = match.end()
    return [*sentences, paragraph[start:]]
