"""Tables that the runtime's tokenizer reads: maps of code points, strings, and a trie over UTF-8.

A map gives each code point a number of 16 bits in three steps, of its first bits, the next five and the last five, as
`pb_map` in the runtime has it; blocks that are alike are kept once, whatever the map. The trie's nodes stand level by
level, those of one parent side by side and in the order of their labels, so that a node's children are those from
first[n] to first[n + 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from compile.errors import CompileError

CODE_POINTS = 0x110000
BITS = 5  # of a code point that one step looks up
KEEP, DROP, HANGUL, SPACED, ELEMENTS = range(5)
LAST = 1 << 21
ROOTS = PIECES, REST, RAW, NORMAL, CHARSMAP = range(5)


class Tables:
    """What all parts of a tokenizer put into its tables, in the order in which they come."""

    def __init__(self) -> None:
        self._maps: list[NDArray[np.uint16]] = []
        self._elements: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        self._strings: list[int] = []
        self._words: dict[tuple[int, bytes], int] = {}

    def add_map(self, values: NDArray[np.uint16]) -> int:
        """The number of a map with these values, one a code point."""
        self._maps.append(values)
        return len(self._maps) - 1

    def add_replacements(self, replacements: Mapping[int, Sequence[int]], hangul: bool = False) -> int:
        """The number of a map in which code points give way to elements: codes with their classes from bit 24 on."""
        values = np.zeros(CODE_POINTS, np.uint16)
        for code, wanted in replacements.items():
            key = tuple(wanted)
            if key == (32, code, 32):
                values[code] = SPACED
                continue
            if key and key not in self._places:
                self._places[key] = len(self._elements)
                self._elements += [*key[:-1], key[-1] | LAST]
            place = DROP if not key else self._places[key] + ELEMENTS
            if place >= 1 << 16:
                raise CompileError("text: the normalizer changes more characters than the tokenizer's tables hold")
            values[code] = place
        if hangul:
            values[0xAC00:0xD7A4] = HANGUL
        return self.add_map(values)

    def add_string(self, *strings: str) -> int:
        """Where strings stand, one after the other, each with its length before it."""
        place = len(self._strings)
        for string in strings:
            self._strings += [len(string), *map(ord, string)]
        return place

    def add_word(self, root: int, word: bytes, value: int) -> None:
        """What a word of the trie under that root says; the last value counts. An empty word is nobody's."""
        if word:
            self._words[root, word] = value

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Each table by the name of its symbol; none is empty."""
        high, middle, entries = self._three_steps()
        first, label, value, roots = _trie(self._words)
        ascii = np.concatenate([values[:128] for values in self._maps] or [np.zeros(128, np.uint16)])
        return {
            "pb_map_ascii": ascii.astype("<u2"),
            "pb_map_high": high.astype("<u2"),
            "pb_map_middle": middle.astype("<u2"),
            "pb_map_entries": entries.astype("<u2"),
            "pb_map_elements": np.array(self._elements or [0], "<u4"),
            "pb_strings": np.array(self._strings or [0], "<u4"),
            "pb_trie_first": first.astype("<u4"),
            "pb_trie_label": label,
            "pb_trie_value": value.astype("<i4"),
            "pb_trie_roots": roots.astype("<u4"),
        }

    def _three_steps(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        values = np.concatenate(self._maps or [np.zeros(CODE_POINTS, np.uint16)]).astype(np.int64)
        entries, middle = _blocks(values)
        middle, high = _blocks(middle)
        assert max(middle.max(), high.max()) < 1 << 16
        return high, middle.reshape(-1), entries.reshape(-1)


def _blocks(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different blocks of `values`, and the number of each block."""
    rows = np.ascontiguousarray(values.reshape(-1, 1 << BITS))
    bytes_ = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    _, first, numbers = np.unique(bytes_, return_index=True, return_inverse=True)
    return rows[first], numbers.reshape(-1)


def _trie(
    words: Mapping[tuple[int, bytes], int],
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """first, label and value of each node, and of each root and byte the node. Node 0 is nobody's child."""
    order = sorted(words)
    lengths = np.array([len(word) for _, word in order], np.int64)
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if order else lengths
    data = np.frombuffer(b"".join(word for _, word in order) or b"\0", np.uint8)
    values = np.array([words[key] for key in order], np.int64)
    parents = np.array([-1 - root for root, _ in order], np.int64)  # roots come before node 1
    rows = np.arange(len(order))
    labels: list[NDArray[np.uint8]] = [np.zeros(1, np.uint8)]
    ends: list[NDArray[np.int64]] = [np.full(1, -1, np.int64)]
    children = np.zeros(1 + int(lengths.sum()), np.int64)  # how many a node has
    roots, count, depth = np.zeros((len(ROOTS), 256), np.int64), 1, 0
    while rows.size:
        label = data[begins[rows] + depth]
        new = np.ones(rows.size, bool)
        new[1:] = (parents[1:] != parents[:-1]) | (label[1:] != label[:-1])
        nodes = count + np.cumsum(new) - 1
        made = nodes[-1] + 1 - count
        if depth:
            np.add.at(children, parents[new], 1)
        else:
            roots[-1 - parents[new], label[new]] = nodes[new]
        value = np.full(made, -1, np.int64)
        done = lengths[rows] == depth + 1
        value[nodes[done] - count] = values[rows[done]]
        labels.append(label[new])
        ends.append(value)
        count += made
        rows, parents, depth = rows[~done], nodes[~done], depth + 1
    first = np.concatenate([[0], np.cumsum(children[:count])])
    # The nodes of the first level are children of the roots.
    first += 1 + int((roots > 0).sum())
    return first, np.concatenate(labels), np.concatenate(ends), roots.reshape(-1)
