"""Documents as sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .text import paragraphs

# A full stop, exclamation or question mark (and what closes a quotation) before a capital, digit or opening quote.
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])")
INITIALS = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|No|vs|Jr|Sr|Prof|Gen|Col|Sgt|Inc|Ltd|Co)\.$")


def documents(paths: Iterable[Path]) -> Iterator[list[str]]:
    """Each document of the files as its sentences, in order; never more than one in memory."""
    for path in paths:
        yield from map(sentences_of, paragraphs(path))


def sentences_of(document: list[str]) -> list[str]:
    """Of a document's paragraphs."""
    return [sentence for paragraph in document for sentence in split_sentences(paragraph)]


def split_sentences(paragraph: str) -> list[str]:
    """Good enough for next-sentence pairs: ends after . ! ? before a capital, not after initials and titles."""
    sentences, start = [], 0
    for match in SENTENCE_END.finditer(paragraph):
        if INITIALS.search(paragraph, start, match.start()) is None:
            sentences.append(paragraph[start : match.end()].strip())
            start = match.end()
    return [*sentences, paragraph[start:]]
