"""The corpus that a configuration names, prepared if need be, and the vocabulary that belongs to a model."""

from __future__ import annotations

from pathlib import Path

from pocketbert.files import written_whole

from ..data import PreTrainingBatches, Shards, prepare, train_vocabulary
from ..errors import ModelError
from ..processes import Processes
from .sources import TextData


def pretraining_batches(data: TextData, vocab_size: int, seed: int, processes: Processes) -> PreTrainingBatches:
    """One process prepares, the others wait."""
    folder, texts = Path(data.folder), [Path(text) for text in data.text]
    vocabulary = Path(data.vocabulary) if data.vocabulary else None
    if processes.first and folder.exists():
        Shards(folder).check_made_from(texts, vocabulary)
    elif processes.first:
        if not (texts and vocabulary):
            raise ModelError(f"{folder} is not there: give data.text and data.vocabulary to prepare it")
        if not vocabulary.exists():
            train_vocabulary(texts, vocabulary, vocab_size)
        prepare(texts, vocabulary, folder)
    processes.wait()
    return PreTrainingBatches(folder, data.sequence_length, vocab_size, seed)


def check_vocabulary(model: str, vocabulary: Path) -> None:
    """Raises `ModelError` where the checkpoint folder `model` (if any) was trained with another vocabulary."""
    own = Path(model) / "vocab.txt"
    if model and own.exists() and vocabulary.exists() and own.read_bytes() != vocabulary.read_bytes():
        raise ModelError(f"{model} was trained with another vocabulary than {vocabulary}: use {own}")


def keep_vocabulary(model: Path, vocabulary: Path) -> None:
    """Beside the model's weights, where `check_vocabulary` and tokenizers find it."""
    if vocabulary.exists():
        with written_whole(model / "vocab.txt", ModelError) as file:
            file.write(vocabulary.read_bytes())
