"""What `tokenizers` says of each code point, asked of the package itself.

No one version of Unicode's files says what it does: its parts take their tables from different versions. So its
normalizers and pre-tokenizers are asked, all code points at once, between characters that they leave alone. Planes that
have no characters yet, and those for private use, are each asked for one of theirs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, normalizers, pre_tokenizers

from compile.text.tables import CODE_POINTS

SURROGATES, SYLLABLES = range(0xD800, 0xE000), range(0xAC00, 0xD7A4)
ASSIGNED = (range(0x32400), range(0xE0000, 0xE1000))
# The first of a plane, or part of one, whose code points are all alike, and where they end.
ALIKE = (
    *((0x32400, 0xE0000), (0xE1000, 0xF0000)),
    *((0xF0000, 0xFFFFE), (0xFFFFE, 0x100000), (0x100000, 0x10FFFE), (0x10FFFE, 0x110000)),
)
CODES = [code for part in ASSIGNED for code in part if code not in SURROGATES] + [begin for begin, _ in ALIKE]
MARK = "\ua66e"  # nothing decomposes into it, composes with it or has it in lower case
EXTENDS, PREPENDS, CONTROL, PICTURE = range(1, 5)


def answers(normalizer: Any, before: str = "") -> dict[int, str]:
    """What a normalizer makes of each code point, with `before` before it."""
    codes = [code for code in CODES if code != ord(MARK)]
    texts = normalizer.normalize_str(MARK.join(before + chr(code) for code in codes)).split(MARK)
    return dict(zip(codes, texts, strict=True))


def everywhere(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Values of CODES' places copied to the places that are like them."""
    for begin, end in ALIKE:
        values[begin:end] = values[begin]
    return values


def lower() -> NDArray[np.uint16]:
    """The lower case of code points that have one of a single code of 16 bits; 0 for the others."""
    lowers = [chr(code).lower() for code in range(1 << 16)]
    result = np.zeros(CODE_POINTS, np.uint16)
    result[: 1 << 16] = [
        ord(to) if len(to) == 1 and to != chr(code) and ord(to) < 1 << 16 else 0 for code, to in enumerate(lowers)
    ]
    return result


@cache
def decompositions(compatible: bool) -> dict[int, tuple[int, ...]]:
    """What each code point decomposes into, and marks into themselves: codes, canonical classes from bit 24 on.

    Hangul syllables are left to arithmetic.
    """
    texts, class_of = answers(normalizers.NFKD() if compatible else normalizers.NFD()), _classes()
    result = {}
    for code, text in texts.items():
        classes = [class_of.get(character, 0) for character in text]
        if code not in SYLLABLES and (text != chr(code) or any(classes)):
            result[code] = tuple(ord(c) | number << 24 for c, number in zip(text, classes, strict=True))
    return result


@cache
def compositions() -> list[tuple[int, int, int]]:
    """Two code points and what they compose to, in order; Hangul is left to arithmetic."""
    nfc = normalizers.NFC()
    composed = answers(nfc)
    result = []
    for code, parts in decompositions(False).items():
        if len(parts) > 1 and composed[code] == chr(code):
            *begin, last = (part & 0x1FFFFF for part in parts)
            first = nfc.normalize_str("".join(map(chr, begin)))
            assert len(first) == 1, hex(code)
            assert nfc.normalize_str(first + chr(last)) == chr(code), hex(code)
            result.append((ord(first), last, code))
    return sorted(result)


@cache
def _classes() -> dict[str, int]:
    """The canonical class of each mark: that of the marks which it goes neither before nor behind."""
    nfd = normalizers.NFD()
    # Every mark goes before U+0345, whose class is the highest, and is sorted among its neighbours by its class.
    moved = answers(nfd, "\u0345").items()
    marks = {chr(code) for code, text in moved if text[0] != "\u0345"} | {"\u0345"}
    stable = [mark for mark in marks if nfd.normalize_str(mark) == mark]
    of_class = {number: mark for mark in stable if (number := unicodedata.combining(mark))}
    result = {}
    for mark in stable:
        goes_first = (n for n, m in of_class.items() if nfd.normalize_str(m + mark) != m + mark)
        lowest = min(goes_first, default=255)
        result[mark] = max(number for number in of_class if number < lowest)
    return result


@cache
def word_classes(kind: str) -> NDArray[np.uint16]:
    """Of each code point 0 where it goes on with a letter before it, 1 a blank, 2 where it stands apart.

    kind: the name of a pre-tokenizer without options.
    """
    splitter = getattr(pre_tokenizers, kind)()
    pieces = splitter.pre_tokenize_str("".join(f"a{chr(code)} " for code in CODES))
    begins = np.array([begin for _, (begin, _) in pieces], np.int64)
    ends = np.array([end for _, (_, end) in pieces], np.int64)
    values = np.ones(len(CODES), np.uint16)
    values[begins[ends - begins == 2] // 3] = 0
    values[begins[begins % 3 == 1] // 3] = 2
    result = np.zeros(CODE_POINTS, np.uint16)
    result[CODES] = values
    return everywhere(result)


@cache
def regex_class(pattern: str) -> NDArray[np.bool_]:
    """Which code points a class of the regular expressions of `tokenizers` has."""
    kept = normalizers.Replace(Regex(f"[^{pattern}]"), "").normalize_str("".join(map(chr, CODES)))
    result = np.zeros(CODE_POINTS, np.uint16)
    result[[ord(character) for character in kept]] = 1
    return everywhere(result).astype(bool)


@cache
def graphemes() -> NDArray[np.uint16]:
    """What each code point does to grapheme clusters, as far as clusters of less than six bytes show it."""
    small = [code for code in CODES if code not in (10, 13)]
    result = np.zeros(CODE_POINTS, np.uint16)

    def having(clusters: int, before: str, after: str, codes: Iterable[int]) -> list[int]:
        asked = list(codes)
        return [
            c
            for c, n in zip(asked, _clusters([f"{before}{chr(c)}{after}" for c in asked]), strict=True)
            if n == clusters
        ]

    result[having(3, "\u00a9\u200d", "", small)] = PICTURE
    result[having(2, "\u0600", "", (code for code in small if code < 0x10000))] = CONTROL
    result[having(1, "", "a", small)] = PREPENDS
    result[having(1, "a", "", small)] = EXTENDS
    result[[10, 13]] = CONTROL
    return everywhere(result)


def _clusters(texts: Sequence[str]) -> list[int]:
    """How many grapheme clusters each text has, of less than six bytes, else how many characters."""
    # A charsmap in which the first byte of every character but \n is replaced, and with it its whole cluster.
    units = np.zeros(0x300, "<u4")
    units[0] = 0x100 << 10
    for byte in range(1, 256):
        if byte != 10:
            units[0x100 ^ byte] = (0x300 ^ byte) << 10 | 1 << 8 | byte
    blob = np.array([units.nbytes], "<u4").tobytes() + units.tobytes() + b"x\0"
    return [len(answer) for answer in normalizers.Precompiled(blob).normalize_str("\n".join(texts)).split("\n")]
