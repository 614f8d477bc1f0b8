"""A tokenizer's normalizers -> the steps that the runtime takes (normalize.c), and their tables."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tokenizers import normalizers

from compile.errors import CompileError
from compile.text import unicode
from compile.text.tables import CHARSMAP, Tables

# Below them no character changes in a normal form.
STABLE = {"NFC": 0x300, "NFD": 0xC0, "NFKC": 0xA0, "NFKD": 0xA0}
# Regular expressions of what blanks are replaced: the flags of replace_runs.
RUNS = {" {2,}": 0, r"\s{2,}": 1, r"\s{2,}|[\n\r\t]": 3}
ALONE = {"Lowercase": normalizers.Lowercase, "StripAccents": normalizers.StripAccents, "Nmt": normalizers.Nmt}


def add_steps(normalizer: dict[str, Any] | None, tables: Tables) -> tuple[list[str], dict[str, str]]:
    """The steps in C, and what else the runtime must know. Raises CompileError for a normalizer that is not covered."""
    steps: list[str] = []
    defines: dict[str, str] = {}
    stable, form = 0x110000, None
    decomposed: set[int] = set()  # what the last normal form leaves none of
    waiting: list[Any] = []  # normalizers that change one character at a time

    def end_map() -> None:
        if waiting:
            steps.append(f"{{PB_STEP_MAP, {_add_map(normalizers.Sequence(list(waiting)), tables, decomposed)}}}")
            waiting.clear()

    for given in _flat(normalizer):
        kind = given["type"]
        if kind == "BertNormalizer":
            form = _bert(given, waiting)
        else:
            form = kind if kind in STABLE else None
            if kind in ALONE:
                waiting.append(ALONE[kind]())
        if form:
            end_map()
            stable = min(stable, STABLE[form])
            parts = unicode.decompositions("K" in form)
            table = tables.add_replacements(parts, hangul=True)
            decomposed = {*unicode.SYLLABLES, *(c for c, to in parts.items() if to[0] & 0x1FFFFF != c)}
            composes = form.endswith("C")
            steps.append(f"{{PB_STEP_{'COMPOSE' if composes else 'DECOMPOSE'}, {table}}}")
            decomposed = set() if composes else decomposed
        if kind == "BertNormalizer" and form:
            waiting.append(normalizers.BertNormalizer(False, False, True, given["lowercase"]))
        if kind in ALONE or kind == "BertNormalizer" or form:
            continue
        end_map()
        steps.append(f"{{{_other(kind, given, tables, defines)}}}")
    end_map()
    if any("COMPOSE" in step for step in steps):
        defines["PB_STABLE"] = str(stable)
    return steps, defines


def _bert(given: Mapping[str, Any], waiting: list[Any]) -> str | None:
    """What comes before accents are stripped, which is done in a normal form: its name."""
    strips = given["lowercase"] if given["strip_accents"] is None else given["strip_accents"]
    if given["clean_text"] or given["handle_chinese_chars"]:
        waiting.append(normalizers.BertNormalizer(given["clean_text"], given["handle_chinese_chars"], False, False))
    if strips:
        return "NFD"
    if given["lowercase"]:
        waiting.append(normalizers.Lowercase())
    return None


def _other(kind: str, given: Mapping[str, Any], tables: Tables, defines: dict[str, str]) -> str:
    if kind == "Strip":
        return f"PB_STEP_STRIP, {given['strip_left'] + 2 * given['strip_right']}"
    if kind == "Replace":
        pattern, content = given["pattern"], given["content"]
        if pattern.get("String"):
            return f"PB_STEP_REPLACE, {tables.add_string(pattern['String'], content)}"
        if pattern.get("Regex") in RUNS:
            return f"PB_STEP_RUNS, {tables.add_string(chr(RUNS[pattern['Regex']]), content)}"
        raise CompileError(f"the normalizer that replaces {next(iter(pattern.values()))!r}")
    if kind == "Precompiled":
        _add_charsmap(base64.b64decode(given["precompiled_charsmap"]), tables)
        defines["PB_GRAPHEMES"] = str(tables.add_map(unicode.graphemes()))
        return "PB_STEP_CHARSMAP, 0"
    raise CompileError(f"the normalizer {kind}")


def _flat(normalizer: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if normalizer is None:
        return
    if normalizer["type"] == "Sequence":
        for part in normalizer["normalizers"]:
            yield from _flat(part)
    else:
        yield normalizer


def _add_map(normalizer: Any, tables: Tables, absent: set[int]) -> int:
    texts = unicode.answers(normalizer).items()
    changes = {code: [*map(ord, text)] for code, text in texts if text != chr(code) and code not in absent}
    return tables.add_replacements(_plain(changes))


def _plain(changes: Mapping[int, Any]) -> dict[int, Any]:
    """What is said of one code point of a plane, said of all that are like it: they go, or stay."""
    result = dict(changes)
    for begin, end in unicode.ALIKE:
        if begin in changes:
            if changes[begin]:
                raise CompileError("a normalizer that changes characters for private use")
            result |= dict.fromkeys(range(begin, end), ())
    return result


def _add_charsmap(blob: bytes, tables: Tables) -> None:
    """SentencePiece's map: a double array in the format of Darts, then strings that end with a NUL."""
    size = int.from_bytes(blob[:4], "little")
    if len(blob) < 4 or size % 4 or size < 4 or 4 + size > len(blob):
        raise CompileError("a damaged precompiled_charsmap")
    units = np.frombuffer(blob[4 : 4 + size], "<u4").astype(np.int64)
    strings, places = blob[4 + size :], {}
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    labels = units & (1 << 31 | 0xFF)
    waiting, seen = [(b"", int(offsets[0]))], 0
    bytes_ = np.arange(1, 256)
    while waiting:
        word, place = waiting.pop()
        seen += 1
        if seen > len(units):
            raise CompileError("a damaged precompiled_charsmap")
        children = place ^ bytes_
        inside = children < len(units)
        found = bytes_[inside][labels[children[inside]] == bytes_[inside]]
        for byte in found.tolist():
            child = place ^ byte
            after, longer = child ^ int(offsets[child]), word + bytes([byte])
            if len(longer) > 64 or after >= len(units):
                raise CompileError("a damaged precompiled_charsmap")
            if units[child] >> 8 & 1:  # the shortest word counts: what is longer is never looked for
                value = int(units[after]) & (1 << 31) - 1
                if value not in places:
                    places[value] = tables.add_string(_string(strings, value))
                tables.add_word(CHARSMAP, longer, places[value])
            else:
                waiting.append((longer, after))


def _string(strings: bytes, place: int) -> str:
    end = strings.find(b"\0", place)
    try:
        return strings[place : len(strings) if end < 0 else end].decode() if place <= len(strings) else ""
    except UnicodeDecodeError as error:
        raise CompileError("a damaged precompiled_charsmap") from error
