"""What BERT's clean-up does to every code point -> the tables in runtime/generated/unicode_tables.h.

    python -m compile.codegen.unicode_tables

The source is the `tokenizers` package itself, asked code point by code point, because no one version of Unicode's files
says what it does: 0.23 takes categories (punctuation, marks, formats) from Unicode 8, decompositions and lower case
from Unicode 16 and 17. Python's `unicodedata` says the same of all characters that have not changed since Unicode 8.

A code point's entry is `entries[middle[high[c >> 10] << 5 | (c >> 5 & 31)] << 5 | (c & 31)]`: 37 KiB for uncased text,
12 KiB for cased. Its lowest 3 bits are the kind, the others say where the elements begin that stand in its place.
"""

from __future__ import annotations

import sys
import textwrap
import unicodedata
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.runtime import GENERATED

HEADER = GENERATED / "unicode_tables.h"
CODE_POINTS = 0x110000
SURROGATES, SYLLABLES = range(0xD800, 0xE000), range(0xAC00, 0xD7A4)
BITS = 5  # of a code point that one step looks up

KEEP, DROP, SPACE, ALONE, HANGUL, DROP_STARTER, REPLACE = range(7)
# An element is a code point with these flags; bits 24 to 31 are its canonical combining class.
LAST, IS_ALONE = 1 << 21, 1 << 22


class Rules:
    """What `tokenizers` does to text that is cased or not."""

    def __init__(self, cased: bool) -> None:
        from tokenizers import normalizers, pre_tokenizers

        self.cased = cased
        self._pre, self._nfd = pre_tokenizers.BertPreTokenizer(), normalizers.NFD()
        self._cleaned = _answers(normalizers.BertNormalizer(lowercase=False))
        self.texts = self._cleaned if cased else _answers(normalizers.BertNormalizer(lowercase=True))
        # Every mark goes before U+0345, whose class is the highest, and is sorted among its neighbours by its class.
        moved = _answers(self._nfd, "\u0345").items()
        self._marks = {chr(code) for code, text in moved if text[0] != "\u0345"} | {"\u0345"}
        stable = (mark for mark in self._marks if self._nfd.normalize_str(mark) == mark)
        self._of_class = {number: mark for mark in stable if (number := unicodedata.combining(mark))}
        self._alone = self._find_alone()

    def tables(self) -> tuple[NDArray[np.int64], list[int]]:
        """The entry of every code point, and the elements that entries point to."""
        entries, elements, places = np.zeros(CODE_POINTS, np.int64), list[int](), dict[tuple[int, ...], int]()
        for code, text in self.texts.items():
            kind, wanted = self._entry(code, text)
            if wanted and wanted not in places:
                places[wanted] = len(elements)
                elements += [*wanted[:-1], wanted[-1] | LAST]
            entries[code] = kind | (places[wanted] << 3 if wanted else 0)
        return entries, elements

    def _entry(self, code: int, text: str) -> tuple[int, tuple[int, ...]]:
        if text == " ":
            return SPACE, ()
        if not text:
            ends_no_run = self._cleaned[code] == "" or chr(code) in self._marks
            return (DROP if ends_no_run else DROP_STARTER), ()
        if code in SYLLABLES and not self.cased:
            return HANGUL, ()
        kept = text.strip()
        alone = [kept != text or character in self._alone for character in kept]
        classes = [0 if self.cased else self._class(character) for character in kept]
        if kept == chr(code) and classes == [0]:
            return (ALONE if alone[0] else KEEP), ()
        assert classes == sorted(classes), f"U+{code:04X}: marks are sought at the end of what replaces a code point"
        characters = zip(kept, alone, classes, strict=True)
        return REPLACE, tuple(ord(c) | (IS_ALONE if lone else 0) | number << 24 for c, lone, number in characters)

    def _find_alone(self) -> set[str]:
        """Every character that is a word of its own. Most blocks of 256 code points have none: they stay one word."""
        alone = set()
        for begin in range(0, CODE_POINTS, 256):
            block = [chr(code) for code in range(begin, begin + 256) if code not in SURROGATES]
            if len(self._pre.pre_tokenize_str("a".join(["", *block]))) > 1:
                alone |= {c for c in block if len(self._pre.pre_tokenize_str(f"a{c}a")) == 3}
        return alone

    def _class(self, character: str) -> int:
        """The canonical combining class: that of the marks which `character` goes neither before nor behind."""
        if character not in self._marks:
            return 0
        goes_first = (n for n, m in self._of_class.items() if self._nfd.normalize_str(m + character) != m + character)
        lowest = min(goes_first, default=255)
        return max(number for number in self._of_class if number < lowest)


def _answers(normalizer: Any, before: str = "") -> dict[int, str]:
    """What `normalizer` makes of each code point with `before` before it. All are asked at once, between zeros."""
    codes = [code for code in range(CODE_POINTS) if code not in SURROGATES and code != ord("0")]
    answers = normalizer.normalize_str("0".join(before + chr(code) for code in codes)).split("0")
    return dict(zip(codes, answers, strict=True))


def header(uncased: Rules, cased: Rules) -> str:
    """The text of unicode_tables.h."""
    parts = [
        f"/* By compile/codegen/unicode_tables.py, which says how to read it, from tokenizers {version('tokenizers')}.",
        " * ascii: letters and digits in lower case, the kind of other ASCII bytes, 0 for bytes that are not ASCII. */",
        "#ifndef PB_UNICODE_TABLES_H\n#define PB_UNICODE_TABLES_H\n\n#include <stdint.h>\n",
        f"enum {{ KEEP = {KEEP}, DROP = {DROP}, SPACE = {SPACE}, ALONE = {ALONE}, HANGUL = {HANGUL}, "
        f"DROP_STARTER = {DROP_STARTER}, REPLACE = {REPLACE} }};",
        f"enum {{ ELEMENT_LAST = 1 << {LAST.bit_length() - 1}, ELEMENT_ALONE = 1 << {IS_ALONE.bit_length() - 1} }};\n",
        "#if PB_CASED\n",
        *_arrays(*cased.tables()),
        "#else\n",
        *_arrays(*uncased.tables()),
        "#endif\n#endif",
    ]
    return "\n".join(parts) + "\n"


def _arrays(entries: NDArray[np.int64], elements: list[int]) -> list[str]:
    low, middle = _blocks(entries)
    middle, high = _blocks(middle)
    letters = {KEEP: lambda c: c, REPLACE: lambda c: elements[entries[c] >> 3] & 0x7F}
    ascii = [letters[kind](code) if (kind := entries[code] & 7) in letters else kind for code in range(128)]
    return [
        _array("uint8_t", "ascii", np.array(ascii + [0] * 128)),
        _array("uint8_t", "high", high),
        _array("uint16_t", "middle", middle.reshape(-1)),
        _array("uint16_t", "entries", low.reshape(-1)),
        _array("uint32_t", "elements", np.array(elements or [0])),
    ]


def _blocks(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different blocks of `values`, and the number of each block."""
    blocks, numbers = np.unique(values.reshape(-1, 1 << BITS), axis=0, return_inverse=True)
    return blocks, numbers.reshape(-1)


def _array(kind: str, name: str, values: NDArray[np.int64]) -> str:
    assert values.max() < 1 << int(kind.removeprefix("uint").removesuffix("_t"))
    lines = textwrap.wrap(", ".join(map(str, values.tolist())), 118)
    return "\n".join([f"static const {kind} {name}[] = {{", *(f"  {line}" for line in lines), "};\n"])


def main() -> int:
    HEADER.write_text(header(Rules(cased=False), Rules(cased=True)))
    print(f"{HEADER}: {HEADER.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
