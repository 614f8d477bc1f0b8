"""Teachers of a task: any model that `transformers` has, of the student's vocabulary or with tokens of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import ModelError
from ..foreign import ForeignModel
from ..heads import Model
from .features import Row

if TYPE_CHECKING:
    from .glue import Example

LONGEST = 512  # tokens of a text that a teacher with tokens of its own reads


class TeacherModel(nn.Module):
    """What it says of a batch, by the names of a student's outputs.

    tokenizer: its own (of `tokenizers`), where it is not the student's; then it reads the batch's teacher_… entries.
    """

    def __init__(self, model: Model | ForeignModel, tokenizer: Any = None):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        before = "teacher_" if self.tokenizer else ""
        given = {n: batch[before + n] for n in ("input_ids", "attention_mask", "token_type_ids")}
        if isinstance(self.model, Model):
            outputs: dict[str, Tensor] = self.model(*given.values())
            return outputs
        answers = self.model(*(given[name] for name in self.model.input_names))
        return dict(zip(self.model.output_names, answers, strict=True))

    @property
    def settings(self) -> Any:
        """With vocab_size and num_labels."""
        return self.model.config if isinstance(self.model, Model) else self.model.module.config

    @property
    def pad(self) -> int:
        return int(self.settings.pad_token_id or 0)

    def read(self, rows: Sequence[Row], examples: Sequence[Example]) -> list[Row]:
        """`rows`, each with the same example in the teacher's own tokens, as its tokenizer puts them together."""
        if self.tokenizer is None:
            return list(rows)
        tokenizer, longest = self.tokenizer, getattr(self.model, "longest", None) or LONGEST
        tokenizer.enable_truncation(min(longest, LONGEST))
        texts = [(e.first, e.second) if e.second is not None else e.first for e in examples]
        encoded = tokenizer.encode_batch(texts)
        return [replace(row, teacher=(e.ids, e.type_ids)) for row, e in zip(rows, encoded, strict=True)]


def own_tokenizer(folder: Path) -> Any:
    """As the folder's files have it, specials around a text or a pair. Raises `ModelError`."""
    from ..data import sentence_tokenizer
    from ..data.vocabulary import read_tokenizer

    if (folder / "tokenizer.json").exists():
        return read_tokenizer(folder / "tokenizer.json")
    if (folder / "vocab.txt").exists():
        return sentence_tokenizer(folder / "vocab.txt")
    raise ModelError(
        f"teacher.folder {folder} has neither tokenizer.json nor vocab.txt: save its tokenizer there "
        "(AutoTokenizer.from_pretrained(...).save_pretrained(...))"
    )
