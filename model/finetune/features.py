"""From text to the ids that an encoder reads: [CLS] A [SEP] B [SEP], padded, and batches of them by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..data.vocabulary import special_ids
from ..errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .glue import Example


@dataclass(frozen=True)
class Row:
    """One input. `targets` are a batch's other entries: a label, or where an answer starts and ends.

    teacher: ids and token types of the same input for a teacher with tokens of its own.
    """

    first: list[int]
    second: list[int] | None
    targets: dict[str, float] = field(default_factory=dict)
    teacher: tuple[list[int], list[int]] | None = None


def encode_examples(tokenizer: Tokenizer, examples: Sequence[Example], length: int) -> list[Row]:
    """Rows that fit `length`; of a pair the longer text loses its end first, as `tokenizers` cuts it."""
    firsts = tokenizer.encode_batch_fast([example.first for example in examples], add_special_tokens=False)
    seconds = tokenizer.encode_batch_fast([example.second or "" for example in examples], add_special_tokens=False)
    rows = []
    for example, a, b in zip(examples, firsts, seconds, strict=True):
        pair = example.second is not None
        first, second = kept(len(a.ids), len(b.ids), length - 3) if pair else (length - 2, 0)
        targets = {} if example.label is None else {"label": example.label}
        rows.append(Row(a.ids[:first], b.ids[:second] if pair else None, targets))
    return rows


def kept(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of a pair's texts stay: of an odd number that is left of both, the longer text has one more."""
    short, long = sorted((first, second))
    if short + long > room:
        short = min(short, room // 2)
        long = room - short
    return (short, long) if first <= second else (long, short)


class RowBatches:
    """Rows as batches by number, every epoch in another order; what the trainer reads."""

    def __init__(self, rows: Sequence[Row], tokenizer: Tokenizer, length: int, seed: int = 0, teacher_pad: int = 0):
        if not rows:
            raise ModelError("there is nothing to train on")
        self.rows, self.length, self.seed, self.teacher_pad = rows, length, seed, teacher_pad
        self.identity = {"length": length, "rows": len(rows), "tokens": sum(len(row.first) for row in rows)}
        special = special_ids(tokenizer)
        self.cls, self.sep, self.pad = special["[CLS]"], special["[SEP]"], special.get("[PAD]", 0)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def order(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        return self._order[1]

    def batch(self, number: int, rank: int, world: int, size: int) -> dict[str, Tensor]:
        start = (number * world + rank) * size
        places = [divmod(i, len(self.rows)) for i in range(start, start + size)]
        return self.collate([self.rows[self.order(epoch)[i]] for epoch, i in places])

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """input_ids, attention_mask, token_type_ids (B, T ≤ length, as long as the longest) and the targets (B,).

        For a teacher with tokens of its own, teacher_input_ids and so on, too.
        """
        whole = []
        for row in rows:
            second = [] if row.second is None else [*row.second, self.sep]
            first = [self.cls, *row.first, self.sep]
            whole.append((first + second, [0] * len(first) + [1] * len(second)))
        batch = padded(whole, self.pad)
        if rows[0].teacher is not None:
            theirs = padded([row.teacher for row in rows if row.teacher], self.teacher_pad)
            batch |= {f"teacher_{name}": value for name, value in theirs.items()}
        for name in rows[0].targets:
            batch[name] = torch.tensor([row.targets[name] for row in rows])
        return batch

    def in_order(self, size: int) -> list[dict[str, Tensor]]:
        """All rows once, as they stand: for evaluation."""
        return [self.collate(self.rows[i : i + size]) for i in range(0, len(self.rows), size)]


def padded(inputs: Sequence[tuple[list[int], list[int]]], pad: int) -> dict[str, Tensor]:
    """Ids and token types of each input -> input_ids, attention_mask, token_type_ids (B, the longest)."""
    shape = len(inputs), max(len(ids) for ids, _ in inputs)
    batch = {name: torch.zeros(shape, dtype=torch.int64) for name in ("attention_mask", "token_type_ids")}
    batch["input_ids"] = torch.full(shape, pad, dtype=torch.int64)
    for i, (ids, types) in enumerate(inputs):
        batch["input_ids"][i, : len(ids)] = torch.tensor(ids)
        batch["attention_mask"][i, : len(ids)] = 1
        batch["token_type_ids"][i, : len(ids)] = torch.tensor(types)
    return batch
