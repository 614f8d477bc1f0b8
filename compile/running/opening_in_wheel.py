"""What `opening` is in a wheel: the facts that the build wrote beside the library, and errors of the wheel's own."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


class ModelError(Exception):
    """Something the caller can mend: the message names what is wrong, its value and the remedy, in one line."""


class RunError(ModelError):
    """What the library itself refused. code: POCKETBERT_ERROR_… of pocketbert.h without that beginning, as "RANGE"."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


CompileError = ModelError  # by the name that the other files know


@dataclass(frozen=True)
class Tensor:
    """An in- or output. token_axis: the one that may have any length up to the shape's; range: low ≤ id < high."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    token_axis: int | None = None
    range: tuple[int, int] | None = None

    def shape_for(self, tokens: int) -> tuple[int, ...]:
        """The shape for a sequence of `tokens`, as far as it depends on that."""
        return tuple(tokens if axis == self.token_axis else size for axis, size in enumerate(self.shape))


@dataclass(frozen=True)
class Vocabulary:
    """How many pieces, whether text keeps its case, the longest text that the model was made for."""

    pieces: int
    cased: bool
    kind: str
    max_tokens: int | None = None


@dataclass(frozen=True)
class Manifest:
    """What is known of the model; the artifact's manifest.json has more, and says what each is."""

    name: str
    library: str
    sha256: str
    target: str
    cpu: str
    precision: str
    tokens: int
    shorter_sequences: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    task: str | None = None
    labels: tuple[str, ...] = ()
    activation: str | None = None
    pooling: str | None = None
    normalized: bool = False
    vocabulary: Vocabulary | None = None


def open_artifact(
    folder: Path, trusted_keys: Iterable[str] | None = None, verify: bool = False
) -> tuple[Manifest, ctypes.CDLL]:
    """What facts.json says of the library beside it, and that loaded; verify: if its digest is the one there.

    Raises ModelError.
    """
    if trusted_keys is not None:
        raise ModelError("trusted_keys: a wheel has no signature of its own; give verify=True, or sign the wheel")
    try:
        manifest = _read(json.loads((folder / "facts.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{folder / 'facts.json'} is missing or damaged ({error}): install the wheel again") from error
    path = folder / manifest.library
    try:
        if verify:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != manifest.sha256:
                    raise ModelError(f"{path} is damaged: install the wheel again")
        return manifest, ctypes.CDLL(str(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be loaded ({error}): install the wheel that is for this machine") from error


def _read(data: dict[str, Any]) -> Manifest:
    known = {field.name: data[field.name] for field in fields(Manifest) if field.name in data}
    known |= {kind: tuple(map(_tensor, data[kind])) for kind in ("inputs", "outputs")}
    text = data.get("vocabulary")
    return Manifest(**known | {"labels": tuple(data.get("labels", ())), "vocabulary": text and Vocabulary(**text)})


def _tensor(data: dict[str, Any]) -> Tensor:
    return Tensor(**data | {"shape": tuple(data["shape"])})
