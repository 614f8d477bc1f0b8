"""The corpus that a configuration names, prepared if need be, and the vocabulary that belongs to a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketbert.files import write_whole

from ..data import PreTrainingBatches, Shards, TwoLengths, prepare
from ..data.vocabulary import (
    read_tokenizer,
    read_vocabulary,
    sentence_tokenizer,
    special_names,
    train_vocabulary,
    vocabulary_in,
)  # fmt: skip
from ..errors import ModelError
from ..processes import Processes
from ..settings import TrainSettings
from .sources import HeldOut, ModelSource, TextData

if TYPE_CHECKING:
    from ..distill import Stage
    from ..heads import Model


def pretraining_batches(data: TextData, vocab_size: int, seed: int, processes: Processes) -> PreTrainingBatches:
    """Of `data.sequence_length`. One process prepares, the others wait."""
    folder, texts = Path(data.folder), [Path(text) for text in data.text]
    vocabulary = Path(data.vocabulary) if data.vocabulary else None

    def made() -> None:
        if folder.exists():
            Shards(folder).check_made_from(texts, vocabulary, data.text_field)
            return
        if not (texts and vocabulary):
            raise ModelError(f"{folder} is not there: give data.text and data.vocabulary to prepare it")
        if not vocabulary.exists():
            train_vocabulary(texts, vocabulary, vocab_size, data.text_field)
        prepare(texts, vocabulary, folder, field=data.text_field)

    processes.first_alone(made)
    return PreTrainingBatches(folder, data.sequence_length, vocab_size, seed)


def run_batches(
    data: TextData, model: Model, stages: Sequence[Stage], train: TrainSettings, processes: Processes
) -> PreTrainingBatches | TwoLengths:
    """A whole run's: its last ones are longer where `data` says so. Raises `ModelError` beyond the position table."""
    config = replace(model.config, trained_positions=None)
    config.check_length(
        "data.long_sequence_length" if data.long_sequence_length else "data.sequence_length", data.longest
    )
    short = pretraining_batches(data, config.vocab_size, train.seed, processes)
    if not data.long_sequence_length:
        return short
    long = PreTrainingBatches(Path(data.folder), data.long_sequence_length, config.vocab_size, train.seed)
    count = sum(stage.steps for stage in stages) * train.accumulate
    return TwoLengths(short, long, count - max(1, round(data.long_share * count)))


def judge(
    held_out: HeldOut | None, vocabulary: Path, vocab_size: int, processes: Processes
) -> Callable[[Model], dict[str, float]] | None:
    """What a trainer asks about its model at every checkpoint: losses and accuracies of held-out text."""
    from .evaluate import evaluate_words

    if held_out is None:
        return None
    data = TextData(
        held_out.folder, held_out.text, str(vocabulary), held_out.sequence_length, text_field=held_out.text_field
    )
    batches = pretraining_batches(data, vocab_size, 0, processes)
    return lambda model: evaluate_words(model, batches, held_out.batches, held_out.batch_size)


def record_trained_positions(model: Model, source: ModelSource, data: TextData) -> None:
    """In the configuration; a checkpoint that does not say how far it was trained goes on not saying it."""
    before = model.config.trained_positions
    if not source.folder or before is not None:
        model.config = replace(model.config, trained_positions=max(before or 0, data.longest))


def check_vocabulary(model: str, vocabulary: Path) -> None:
    """Raises `ModelError` where the checkpoint folder `model` (if any) was trained with another vocabulary."""
    if model and vocabulary.exists() and not same_vocabulary(own := vocabulary_in(Path(model)), vocabulary):
        raise ModelError(f"{model} was trained with another vocabulary than {vocabulary}: use {own}")


def same_vocabulary(own: Path, other: Path) -> bool:
    """Whether both give the same ids to the same pieces; a file that is not there says nothing against it."""
    if not own.exists() or own.read_bytes() == other.read_bytes():
        return True
    if own.suffix == other.suffix == ".txt":
        return False
    if other.suffix == ".json" and (beside := own.with_name("tokenizer.json")).exists():
        own = beside
    ours, theirs = (read_tokenizer(p) if p.suffix == ".json" else read_vocabulary(p) for p in (own, other))
    return ours.get_vocab() == theirs.get_vocab()


def keep_vocabulary(model: Path, vocabulary: Path, longest: int) -> None:
    """Beside the model's weights, where `check_vocabulary` and tokenizers find it: vocab.txt and tokenizer.json.

    Of a vocabulary that is a tokenizer.json, that alone. longest: tokens that the model takes.
    """
    if not vocabulary.exists():
        return
    tokenizer = sentence_tokenizer(vocabulary)
    settings: dict[str, Any] = {"model_max_length": longest}
    pieces = {f"{piece.strip('[]').lower()}_token": name for piece, name in special_names(tokenizer).items()}
    if vocabulary.suffix == ".json":
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        settings |= {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
        write_whole(model / "vocab.txt", vocabulary.read_bytes(), ModelError)
    write_whole(model / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n", ModelError)
    write_whole(model / "tokenizer_config.json", json.dumps(settings | pieces, indent=2) + "\n", ModelError)
