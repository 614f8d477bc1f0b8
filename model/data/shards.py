"""Token shards: WordPiece ids of a corpus on disk, opened by memory map and never read whole.

A folder holds `shards.json`, `vocab.txt` and, for each shard, `NNNNN.tokens` (ids, uint16 or uint32, one document
after another), `NNNNN.sentences.npy` (int64, where each sentence starts, and the end) and `NNNNN.documents.npy` (int64,
the first sentence of each document, and the end).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from pocketbert.files import digest, written_whole
from pocketbert.reading import read_json
from pocketbert.temporary import TemporaryFolder
from pocketbert.typed import Misfit, between, typed

from ..errors import ModelError
from .corpus import documents
from .vocabulary import SPECIAL, read_vocabulary

FORMAT = 2
BATCH = 256  # documents tokenized at a time


def prepare(texts: Sequence[Path], vocabulary: Path, folder: Path, tokens_per_shard: int = 1 << 28) -> Path:
    """Tokenize text files into `folder`, which appears whole or not at all; returns it.

    Raises `ModelError` for a text that cannot be read, an empty corpus or a folder that exists.
    """
    if folder.exists():
        raise ModelError(f"{folder} exists: delete it, or choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFolder(folder.parent) as unfinished:
            _write(texts, vocabulary, unfinished, tokens_per_shard)
            unfinished.chmod(0o755)
            os.replace(unfinished, folder)
    except OSError as error:
        raise ModelError(f"cannot write {folder}: {error.strerror}; choose another folder") from error
    return folder


def _write(texts: Sequence[Path], vocabulary: Path, folder: Path, tokens_per_shard: int) -> None:
    tokenizer = read_vocabulary(vocabulary)
    size = tokenizer.get_vocab_size()
    dtype = "uint16" if size <= 1 << 16 else "uint32"
    shards: list[dict[str, int]] = []
    encoded = _encode(tokenizer, documents(texts))
    while document := next(encoded, None):
        shards.append(_write_shard(folder / f"{len(shards):05d}", document, encoded, dtype, tokens_per_shard))
    if not shards:
        raise ModelError(f"no words in {', '.join(map(str, texts)) or 'no files'}: the corpus is empty")
    settings = {
        "format": FORMAT,
        "dtype": dtype,
        "vocab_size": size,
        "vocabulary_sha256": digest(vocabulary, ModelError),
        "texts_sha256": [digest(text, ModelError) for text in texts],
        "special": {piece: tokenizer.token_to_id(piece) for piece in SPECIAL},
        "shards": shards,
    }
    shutil.copyfile(vocabulary, folder / "vocab.txt")
    (folder / "shards.json").write_text(json.dumps(settings, indent=1) + "\n")


def _encode(tokenizer: object, texts: Iterator[list[str]]) -> Iterator[list[list[int]]]:
    """Documents as lists of ids a sentence, none empty; many at a time, as the tokenizer runs in parallel."""
    while some := list(islice(texts, BATCH)):
        flat = tokenizer.encode_batch_fast([s for document in some for s in document], add_special_tokens=False)  # type: ignore[attr-defined]
        ids = iter(flat)
        for document in some:
            sentences = [tokens for encoding in islice(ids, len(document)) if (tokens := encoding.ids)]
            if sentences:
                yield sentences


def _write_shard(
    stem: Path, first: list[list[int]], rest: Iterator[list[list[int]]], dtype: str, limit: int
) -> dict[str, int]:
    sentences, starts = [0], [0]
    with open(f"{stem}.tokens", "wb") as file:
        document: list[list[int]] | None = first
        while document is not None:
            for sentence in document:
                file.write(np.asarray(sentence, dtype).tobytes())
                sentences.append(sentences[-1] + len(sentence))
            starts.append(len(sentences) - 1)
            document = next(rest, None) if sentences[-1] < limit else None
    np.save(f"{stem}.sentences.npy", np.asarray(sentences, np.int64))
    np.save(f"{stem}.documents.npy", np.asarray(starts, np.int64))
    return {"tokens": sentences[-1], "sentences": len(sentences) - 1, "documents": len(starts) - 1}


@dataclass(frozen=True)
class Shard:
    """One shard, memory-mapped."""

    tokens: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray

    def windows(self, length: int) -> np.ndarray:
        """First sentences of the windows of `length` tokens that cover the shard (int64), across documents.

        A window is cut where it is full; the next begins with the sentence that was cut. The end of the shard that
        fills no window is left out, unless it is all there is.
        """
        starts, first, sentences = [], 0, self.sentences
        while sentences[first] + length <= sentences[-1]:
            starts.append(first)
            cut = int(np.searchsorted(sentences, sentences[first] + length, "right")) - 1
            first = max(cut, first + 1)
        return np.asarray(starts or [0], np.int64)


Natural = Annotated[int, between(0, 1 << 48)]


@dataclass(frozen=True)
class _Counts:
    tokens: Natural
    sentences: Natural
    documents: Natural


@dataclass(frozen=True)
class _Settings:
    """shards.json"""

    format: int
    vocab_size: Natural
    vocabulary_sha256: str
    texts_sha256: tuple[str, ...]
    special: dict[str, Natural]
    shards: tuple[_Counts, ...]
    dtype: Literal["uint16", "uint32"]


class Shards:
    """A prepared corpus; raises `ModelError` for a folder that is none, is cut short or of another format."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "shards.json"
        if not path.exists():
            raise ModelError(f"{folder} is no prepared corpus: remove it to have it prepared again")
        content = read_json(path, ModelError)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ModelError(f"{path} is not of format {FORMAT}: remove {folder} to have it prepared again")
        try:
            settings = typed(_Settings, content)
        except Misfit as error:
            raise ModelError(f"{path}: {error}") from error
        self.vocab_size = settings.vocab_size
        self.vocabulary_sha256, self.texts_sha256 = settings.vocabulary_sha256, settings.texts_sha256
        self.special = settings.special
        self.counts = [vars(counts) for counts in settings.shards]
        self.dtype = settings.dtype
        self._index: dict[int, list[np.ndarray]] = {}
        for i, count in enumerate(self.counts):
            file = folder / f"{i:05d}.tokens"
            if not file.exists() or file.stat().st_size != count["tokens"] * np.dtype(self.dtype).itemsize:
                raise ModelError(f"{file} is missing or cut short: prepare the corpus again")

    @cached_property
    def shards(self) -> list[Shard]:
        return [self._open(i) for i in range(len(self.counts))]

    def _open(self, i: int) -> Shard:
        stem = f"{self.folder}/{i:05d}"
        return Shard(
            np.memmap(f"{stem}.tokens", self.dtype, "r"),
            np.load(f"{stem}.sentences.npy", mmap_mode="r"),
            np.load(f"{stem}.documents.npy", mmap_mode="r"),
        )

    def check_made_from(self, texts: Sequence[Path], vocabulary: Path | None) -> None:
        """Raises `ModelError` where the corpus was made of other texts or with another vocabulary."""
        if texts and tuple(digest(text, ModelError) for text in texts) != self.texts_sha256:
            raise ModelError(
                f"{self.folder} was made of another text than data.text names: remove the folder, choose another "
                "data.folder, or leave data.text out"
            )
        if vocabulary is not None and digest(vocabulary, ModelError) != self.vocabulary_sha256:
            raise ModelError(f"{self.folder} was made with another vocabulary than {vocabulary}: leave it out")

    @property
    def tokens(self) -> int:
        return sum(count["tokens"] for count in self.counts)

    def windows(self, length: int) -> list[np.ndarray]:
        """`Shard.windows` of every shard, kept in the folder (if it can be written) and memory-mapped from there."""
        if length not in self._index:
            self._index[length] = [
                _kept(self.folder / f"{i:05d}.windows-{length}.npy", shard, length)
                for i, shard in enumerate(self.shards)
            ]
        return self._index[length]

    def __getstate__(self) -> dict[str, object]:  # worker processes map the files themselves
        return {k: v for k, v in self.__dict__.items() if k != "shards"} | {"_index": {}}


def _kept(path: Path, shard: Shard, length: int) -> np.ndarray:
    if not path.exists():
        windows = shard.windows(length)
        try:
            with written_whole(path, ModelError) as file:
                np.save(file, windows)
        except ModelError:
            return windows  # a folder that cannot be written
    return np.load(path, mmap_mode="r")
