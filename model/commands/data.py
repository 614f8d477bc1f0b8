"""The corpus that a configuration names, prepared if need be."""

from __future__ import annotations

from pathlib import Path

from ..data import PreTrainingBatches, prepare, train_vocabulary
from ..errors import ModelError
from ..processes import Processes
from .config import TextData


def pretraining_batches(data: TextData, vocab_size: int, seed: int, processes: Processes) -> PreTrainingBatches:
    """One process prepares, the others wait."""
    folder = Path(data.folder)
    if processes.first and not folder.exists():
        if not (data.text and data.vocabulary):
            raise ModelError(f"{folder} is not there: give data.text and data.vocabulary to prepare it")
        texts, vocabulary = [Path(text) for text in data.text], Path(data.vocabulary)
        if not vocabulary.exists():
            train_vocabulary(texts, vocabulary, vocab_size)
        prepare(texts, vocabulary, folder)
    processes.wait()
    return PreTrainingBatches(folder, data.sequence_length, vocab_size, seed)
