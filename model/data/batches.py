"""Batches by number: batch k is the same whoever makes it, so the state of a run's data is k alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import ModelError
from .instances import IGNORED, Instance, Instances, Masking
from .shards import Shards


class Batches(Protocol):
    """What the trainer reads: the whole run's batches, by number."""

    identity: dict[str, Any]
    """Tells these from other batches; plain values."""

    def batch(self, number: int, rank: int, world: int, size: int) -> dict[str, Tensor]:
        """The share of process `rank` of `world` of batch `number`, `size` rows each; every batch of a run differs."""
        ...


class PreTrainingBatches:
    """Masked sentence pairs of a prepared corpus, epoch after epoch, each in its own order.

    Raises `ModelError` where the corpus was made with another vocabulary size than `vocab_size`.
    """

    def __init__(
        self, folder: Path, length: int, vocab_size: int, seed: int = 0, masking: Masking | None = None
    ) -> None:
        self.shards, self.length = Shards(folder), length
        if self.shards.vocab_size > vocab_size:
            raise ModelError(
                f"{folder} was prepared with a vocabulary of {self.shards.vocab_size} pieces, "
                f"the model has {vocab_size}: set model.vocab_size or prepare with the model's own vocabulary"
            )
        self.instances = Instances(self.shards, length, seed, masking)
        self.identity = {"length": length, "vocabulary": self.shards.vocabulary_sha256, "shards": self.shards.counts}

    def batch(self, number: int, rank: int, world: int, size: int) -> dict[str, Tensor]:
        """input_ids, attention_mask, token_type_ids, labels (size, length) and next_sentence (size,), all int64."""
        start = (number * world + rank) * size
        rows = [self.instances[divmod(i, len(self.instances))] for i in range(start, start + size)]
        return self.collate(rows)

    def collate(self, rows: Sequence[Instance]) -> dict[str, Tensor]:
        shape = (len(rows), self.length)
        batch = {
            "input_ids": np.full(shape, self.shards.special["[PAD]"], np.int64),
            "attention_mask": np.zeros(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
            "labels": np.full(shape, IGNORED, np.int64),
        }
        for i, row in enumerate(rows):
            n = len(row.input_ids)
            batch["input_ids"][i, :n], batch["attention_mask"][i, :n] = row.input_ids, 1
            batch["token_type_ids"][i, :n], batch["labels"][i, :n] = row.token_type_ids, row.labels
        batch["next_sentence"] = np.array([row.next_sentence for row in rows], np.int64)
        return {name: torch.from_numpy(values) for name, values in batch.items()}


class TwoLengths:
    """Short sequences in all batches but the last, which have long ones (BERT: 90 % at 128 tokens, then 512)."""

    def __init__(self, short: PreTrainingBatches, long: PreTrainingBatches, first_long: int) -> None:
        self.short, self.long, self.first_long = short, long, first_long
        self.identity = {"short": short.identity, "long": long.identity, "first_long": first_long}

    def batch(self, number: int, rank: int, world: int, size: int) -> dict[str, Tensor]:
        return (self.short if number < self.first_long else self.long).batch(number, rank, world, size)


class _Numbered(Dataset[dict[str, Tensor]]):
    def __init__(self, batches: Batches, rank: int, world: int, size: int):
        self.batches, self.rank, self.world, self.size = batches, rank, world, size

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self.batches.batch(number, self.rank, self.world, self.size)


def loader(
    batches: Batches, start: int, stop: int, size: int, rank: int = 0, world: int = 1, workers: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Batches `start` to `stop` in order; `workers` processes make them ahead of time, 0 makes them here."""
    return iter(
        DataLoader(
            _Numbered(batches, rank, world, size),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="forkserver" if workers else None,
        )
    )
