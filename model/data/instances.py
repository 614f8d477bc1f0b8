"""Sentence pairs with masked words, each a pure function of (corpus, seed, epoch, number).

Nothing is remembered from one instance to the next, so any of them can be made at any time, by any process: that is
what makes a run resumable at any step and the same for any number of loader processes.

A pair fills the sequence: a window of the running text, across documents as in RoBERTa (section 4.2, FULL-SENTENCES),
is divided where a sentence ends inside a document. In half of the pairs, B is instead the text at the division of
another window, of other documents, cut to the same length. So A's and B's lengths, and where they begin and end, tell
nothing about whether B follows A; BERT's own pairs do not tell it either, as they too are filled and cut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import ModelError
from .shards import Shard, Shards

TRIES = 64
"""Windows drawn for a segment from elsewhere before one of the same documents is taken: the corpus has no others."""

IGNORED = -100
"""The label of a token that was not chosen for prediction."""


@dataclass(frozen=True)
class Masking:
    """BERT's: of each pair's tokens, `share` are predicted; of these 80 % become [MASK], 10 % a random piece."""

    share: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    short_pairs: float = 0.1  # pairs drawn shorter than the sequence length, to fine-tune on short inputs


@dataclass(frozen=True)
class Instance:
    """[CLS] A [SEP] B [SEP], before padding; all arrays (length,) int64."""

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    labels: np.ndarray  # the original ids where predicted, else IGNORED
    next_sentence: int  # 0: B follows A; 1: B is from elsewhere


@dataclass(frozen=True)
class _Window:
    """Tokens [start, stop) of a shard."""

    number: int  # of the shard
    shard: Shard
    start: int
    stop: int

    @property
    def tokens(self) -> np.ndarray:
        return self.shard.tokens[self.start : self.stop]

    def divisions(self) -> np.ndarray:
        """Where a sentence begins inside the window that is not the first of its document (int64, may be empty)."""
        begin = int(np.searchsorted(self.shard.sentences, self.start, "right"))
        inner = np.arange(begin, np.searchsorted(self.shard.sentences, self.stop))
        documents = self.shard.documents
        return self.shard.sentences[inner[documents[np.searchsorted(documents, inner)] != inner]]

    def inside(self, rng: np.random.Generator) -> int:
        """A place inside the window, wherever sentences begin."""
        return int(rng.integers(self.start + 1, max(self.stop, self.start + 2)))

    def shares_document(self, other: _Window) -> bool:
        (a, b), (c, d) = self._documents(), other._documents()
        return self.number == other.number and a <= d and c <= b

    def _documents(self) -> tuple[int, int]:
        """The first and the last document that the window touches."""
        sentences = np.searchsorted(self.shard.sentences, [self.start, self.stop - 1], "right") - 1
        first, last = np.searchsorted(self.shard.documents, sentences, "right") - 1
        return int(first), int(last)


class Instances:
    """All sentence pairs of a corpus, by epoch and number."""

    def __init__(self, shards: Shards, length: int, seed: int, masking: Masking | None = None):
        if length < 8:
            raise ModelError(f"sequence_length is {length}: sentence pairs need at least 8 tokens")
        self.shards, self.room, self.seed = shards, length - 3, seed
        self.masking = masking or Masking()
        self.offsets = np.cumsum([0, *map(len, shards.windows(self.room))])

    def __len__(self) -> int:
        """Instances in an epoch."""
        return int(self.offsets[-1])

    def __getitem__(self, place: tuple[int, int]) -> Instance:
        """Instance `number` of `epoch`; its first segment comes from a window that no other number has."""
        epoch, number = place
        if not 0 <= number < len(self):
            raise IndexError(f"instance {number} of {len(self)}")
        rng = np.random.default_rng([self.seed, epoch, number])
        first, second, follows = self._pair(rng, permute(number, len(self), self.seed * 1_000_003 + epoch))
        room = self.room
        if rng.random() < self.masking.short_pairs:
            room = int(rng.integers(2, self.room + 1))
        first, second = _shorten(rng, first, second, room)
        return self._mask(rng, first, second, 0 if follows else 1)

    def _pair(self, rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray, bool]:
        window = self._window(number)
        divisions = window.divisions()
        middle = int(rng.choice(divisions)) if len(divisions) else window.inside(rng)
        first, second = replace(window, stop=middle), replace(window, start=middle)
        follows = rng.random() < 0.5
        if not follows:
            second = self._elsewhere(rng, window, bool(len(divisions)), window.stop - middle)
        return first.tokens, second.tokens, follows

    def _window(self, number: int) -> _Window:
        s = int(np.searchsorted(self.offsets, number, "right")) - 1
        shard = self.shards.shards[s]
        start = int(shard.sentences[self.shards.windows(self.room)[s][number - int(self.offsets[s])]])
        return _Window(s, shard, start, min(start + self.room, len(shard.tokens)))

    def _elsewhere(self, rng: np.random.Generator, avoid: _Window, at_sentence: bool, length: int) -> _Window:
        """`length` tokens from a place where another window would be divided, at a sentence or inside of one.

        Of other documents than those of `avoid`, as far as the corpus has any.
        """
        for _ in range(TRIES):
            window = self._window(int(rng.integers(len(self))))
            divisions = window.divisions() if at_sentence else np.asarray([window.inside(rng)])
            start = int(rng.choice(divisions)) if len(divisions) else window.inside(rng)
            start = max(0, min(start, len(window.shard.tokens) - length))
            found = replace(window, start=start, stop=start + length)
            if len(divisions) and not found.shares_document(avoid):
                break
        return found

    def _mask(self, rng: np.random.Generator, first: np.ndarray, second: np.ndarray, next_sentence: int) -> Instance:
        special = self.shards.special
        cls, sep = [special["[CLS]"]], [special["[SEP]"]]
        ids = np.concatenate([cls, first, sep, second, sep]).astype(np.int64)
        types = np.zeros_like(ids)
        types[len(first) + 2 :] = 1
        candidates = np.delete(np.arange(1, len(ids) - 1), len(first))  # all but [CLS] and both [SEP]
        count = max(1, round(self.masking.share * len(ids)))
        chosen = rng.choice(candidates, min(count, len(candidates)), replace=False)
        labels = np.full_like(ids, IGNORED)
        labels[chosen] = ids[chosen]
        fate = rng.random(len(chosen))
        ids[chosen[fate < self.masking.masked]] = special["[MASK]"]
        swapped = chosen[(fate >= self.masking.masked) & (fate < self.masking.masked + self.masking.random)]
        ids[swapped] = rng.integers(0, self.shards.vocab_size, len(swapped))
        return Instance(ids, types, labels, next_sentence)


def _shorten(
    rng: np.random.Generator, first: np.ndarray, second: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take tokens from the longer segment, at random from its front or back, until both fit."""
    surplus = len(first) + len(second) - room
    if surplus <= 0:
        return first, second
    long, short = max(len(first), len(second)), min(len(first), len(second))
    from_long = min(surplus, long - short)  # until they are equal, then from both in turn
    from_long, from_short = from_long + (surplus - from_long + 1) // 2, (surplus - from_long) // 2
    removed = (from_long, from_short) if len(first) >= len(second) else (from_short, from_long)
    cut = []
    for segment, count in zip((first, second), removed, strict=True):
        front = int(rng.binomial(count, 0.5))
        cut.append(segment[front : len(segment) - (count - front)])
    return cut[0], cut[1]


def permute(number: int, size: int, key: int) -> int:
    """A permutation of range(size) chosen by `key`, in constant memory: a Feistel network, walked until in range."""
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = number >> half, number & mask
        for turn in range(4):
            mixed = (right * 0x9E3779B97F4A7C15 + (key * 4 + turn + 1) * 0xBF58476D1CE4E5B9) & (1 << 64) - 1
            mixed = ((mixed ^ mixed >> 31) * 0x94D049BB133111EB) & (1 << 64) - 1
            left, right = right, left ^ (mixed >> 32 & mask)
        number = left << half | right
        if number < size:
            return number
