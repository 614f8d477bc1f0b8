"""Sentence pairs with masked words, each a pure function of (corpus, seed, epoch, number).

Nothing is remembered from one instance to the next, so any of them can be made at any time, by any process: that is
what makes a run resumable at any step and the same for any number of loader processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ModelError
from .shards import Shards

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


class Instances:
    """All sentence pairs of a corpus, by epoch and number."""

    def __init__(self, shards: Shards, length: int, seed: int, masking: Masking | None = None):
        if length < 8:
            raise ModelError(f"sequence_length is {length}: sentence pairs need at least 8 tokens")
        self.shards, self.room, self.seed = shards, length - 3, seed
        self.masking = masking or Masking()
        sizes = [len(bounds) - 1 for bounds in shards.chunks(self.room)]
        self.offsets = np.cumsum([0, *sizes])
        self.document_offsets = np.cumsum([0, *(count["documents"] for count in shards.counts)])

    def __len__(self) -> int:
        """Instances in an epoch."""
        return int(self.offsets[-1])

    def __getitem__(self, place: tuple[int, int]) -> Instance:
        """Instance `number` of `epoch`; its first segment comes from a chunk of the corpus that no other number has."""
        epoch, number = place
        if not 0 <= number < len(self):
            raise IndexError(f"instance {number} of {len(self)}")
        rng = np.random.default_rng([self.seed, epoch, number])
        chunk = permute(number, len(self), self.seed * 1_000_003 + epoch)
        first, second, follows = self._pair(rng, chunk)
        room = self.room
        if rng.random() < self.masking.short_pairs:
            room = int(rng.integers(2, self.room + 1))
        first, second = _shorten(rng, first, second, room)
        return self._mask(rng, first, second, 0 if follows else 1)

    def _pair(self, rng: np.random.Generator, chunk: int) -> tuple[np.ndarray, np.ndarray, bool]:
        s = int(np.searchsorted(self.offsets, chunk, "right")) - 1
        shard, bounds = self.shards.shards[s], self.shards.chunks(self.room)[s]
        local = chunk - int(self.offsets[s])
        begin, end = int(bounds[local]), int(bounds[local + 1])
        if end - begin > 1:  # the first segment ends at one of the sentence ends inside the chunk
            middle = int(shard.sentences[rng.integers(begin + 1, end)])
        else:  # a sentence alone is cut, so that half of all pairs can follow on
            start, stop = int(shard.sentences[begin]), int(shard.sentences[end])
            middle = int(rng.integers(start + 1, stop)) if stop - start > 1 else stop
        first = shard.tokens[int(shard.sentences[begin]) : middle]
        rest = shard.tokens[middle : int(shard.sentences[end])]
        if rng.random() < 0.5 and len(rest):
            return first, rest, True
        return first, self._elsewhere(rng, s, begin, self.room - min(len(first), self.room - 1)), False

    def _elsewhere(self, rng: np.random.Generator, avoid: int, sentence: int, length: int) -> np.ndarray:
        """Up to `length` tokens from a random sentence on of another document (of the same if there is but one)."""
        total = int(self.document_offsets[-1])
        own = int(self.document_offsets[avoid])
        own += int(np.searchsorted(self.shards.shards[avoid].documents, sentence, "right")) - 1
        chosen = (own + int(rng.integers(1, total))) % total if total > 1 else own
        s = int(np.searchsorted(self.document_offsets, chosen, "right")) - 1
        shard, local = self.shards.shards[s], chosen - int(self.document_offsets[s])
        begin, end = int(shard.documents[local]), int(shard.documents[local + 1])
        start = int(shard.sentences[rng.integers(begin, end)])
        return shard.tokens[start : min(start + length, int(shard.sentences[end]))]

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
