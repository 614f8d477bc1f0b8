"""What a build knows of a model's text: the tokenizer, and where each of its settings came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from tokenizers import Tokenizer

from compile.errors import CompileError
from pocketbert.errors import first_line

Kind = Literal["WordPiece", "BPE", "Unigram"]
MAX_ID = 1 << 22  # of a piece: some ten times what the largest vocabularies have


@dataclass(frozen=True)
class Setting:
    """How a tokenizer is set, in JSON, and the file (and key) that says so."""

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class TextSide:
    """A tokenizer that a library is to hold.

    tokenizer: the referee, which says what every text's ids are;
    description: its tokenizer.json, in the form that this version of `tokenizers` writes;
    names: each id's piece as it is shown, None where there is none;
    max_tokens: the longest text that its model was made for, special pieces included; None if nobody says.
    """

    tokenizer: Tokenizer
    description: dict[str, Any]
    names: tuple[str | None, ...]
    settings: tuple[Setting, ...]
    max_tokens: int | None = None

    @property
    def cased(self) -> bool:
        """Whether text keeps its case."""
        return self.tokenizer.normalizer is None or self.tokenizer.normalizer.normalize_str("A") == "A"

    @property
    def sha256(self) -> str:
        """Of the description."""
        return sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()

    @property
    def kind(self) -> Kind:
        """Of its model."""
        kind: Kind = self.description["model"]["type"]
        return kind


def make_side(
    tokenizer: Tokenizer,
    settings: tuple[Setting, ...],
    where: str,
    max_tokens: int | None = None,
    names: dict[int, str] | None = None,
) -> TextSide:
    """names: of ids that the tokenizer does not give. Raises CompileError, which begins with `where`."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = {number: piece for piece, number in tokenizer.get_vocab(with_added_tokens=True).items()} | (names or {})
    if not known:
        raise CompileError(f"{where}: the vocabulary is empty: give the tokenizer that the model was trained with")
    if max(known) >= MAX_ID:
        raise CompileError(f"{where}: a piece has the id {max(known)}: no vocabulary has that many pieces")
    for number, piece in known.items():
        if "\0" in piece:
            raise CompileError(f"{where}: piece {number} holds a NUL byte: save the file as UTF-8")
    description = json.loads(asked(where, tokenizer.to_str))  # it takes time for every id up to the largest
    return TextSide(tokenizer, description, tuple(map(known.get, range(max(known) + 1))), settings, max_tokens)


def asked(where: str, question: Callable[..., Any], *arguments: Any) -> Any:
    """What `tokenizers` answers. Its errors, and panics, become a CompileError that begins with `where`."""
    try:
        return question(*arguments)
    except Exception as error:
        raise CompileError(f"{where}: {first_line(error)}: not what `tokenizers` reads") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise CompileError(f"{where}: `tokenizers` panics: {first_line(error)}") from error
