"""Where a recipe's model and text come from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketbert.typed import nearest

from ..config import Head, ModelConfig
from ..errors import ModelError
from ..presets import find_preset

if TYPE_CHECKING:
    from ..heads import Model


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint `folder`, or a `preset` (random weights) whose fields `fields` may change."""

    folder: str = ""
    preset: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    def load(self, head: Head, seed: int = 0, **changes: Any) -> Model:
        """Raises `ModelError` where neither or both are given, or a field is unknown."""
        from ..build import create
        from ..checkpoint import load_checkpoint  # torch: the commands' help does without

        if bool(self.folder) == bool(self.preset):
            raise ModelError("give the model either a folder or a preset")
        if self.folder:
            if self.fields:
                raise ModelError("model.fields changes presets only: the model of a folder is as it is")
            return load_checkpoint(Path(self.folder), head, seed)
        names = [f.name for f in fields(ModelConfig)]
        for name in self.fields:
            if name not in names:
                raise ModelError(f"model.fields.{name} is unknown{nearest(name, names)}")
        return create(replace(find_preset(self.preset), **self.fields, **changes), head, seed)


@dataclass(frozen=True)
class TextData:
    """A corpus: prepared in `folder`, which is made from `text` and `vocabulary` if it is not there yet."""

    folder: str
    text: tuple[str, ...] = ()  # plain text, .jsonl, .parquet, or a folder of these or that `datasets` wrote
    vocabulary: str = ""  # a vocab.txt, learnt (the model's vocab_size) if it is not there yet, or a tokenizer.json
    sequence_length: int = 128
    long_sequence_length: int = 0  # of the last batches, so that longer positions are trained too; 0: none
    long_share: float = 0.1  # of all batches
    text_field: str = "text"  # of rows

    def __post_init__(self) -> None:
        if self.long_sequence_length and self.long_sequence_length <= self.sequence_length:
            raise ModelError(
                f"data.long_sequence_length is {self.long_sequence_length}: it must be above sequence_length, or 0"
            )
        if not 0 < self.long_share < 1:
            raise ModelError(f"data.long_share is {self.long_share}: it must be between 0 and 1")

    @property
    def longest(self) -> int:
        """Tokens."""
        return self.long_sequence_length or self.sequence_length


@dataclass(frozen=True)
class HeldOut:
    """A corpus as `TextData` has it, prepared with the vocabulary of the training corpus."""

    folder: str
    text: tuple[str, ...] = ()
    text_field: str = "text"  # of rows
    sequence_length: int = 128
    batches: int = 20
    batch_size: int = 32
