"""Token shards: WordPiece ids of a corpus on disk, opened by memory map and never read whole.

A folder holds `shards.json`, the vocabulary and, for each shard, `NNNNN.tokens` (ids, uint16 or uint32, one document
after another), `NNNNN.sentences.npy` (int64, where each sentence starts, and the end) and `NNNNN.documents.npy` (int64,
the first sentence of each document, and the end).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from pocketbert.files import digest, written_whole
from pocketbert.reading import read_json
from pocketbert.temporary import TemporaryFolder
from pocketbert.typed import Misfit, between, typed

from ..errors import ModelError
from ..progress import reading
from ..settings import cores
from .corpus import sentences_of
from .text import paragraphs, size_of, text_files
from .vocabulary import read_vocabulary, special_ids, vocabulary_in

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 2
BATCH = 256  # documents tokenized at a time
AHEAD = 4  # batches for each process that wait to be tokenized or written
ALONE = 16 << 20  # bytes of text that one process reads sooner than others start


def prepare(
    texts: Sequence[Path],
    vocabulary: Path,
    folder: Path,
    tokens_per_shard: int = 1 << 28,
    field: str = "text",
    processes: int | None = None,
) -> Path:
    """Tokenize files of text (see `text`) into `folder`, which appears whole or not at all; returns it.

    field: the rows' text, where files have rows. processes: that tokenize; the machine's cores unless given, and only
    this one for little text. Raises `ModelError` for a text that cannot be read, an empty corpus or a folder that
    exists.
    """
    if folder.exists():
        raise ModelError(f"{folder} exists: delete it, or choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFolder(folder.parent) as unfinished:
            _write(text_files(texts), vocabulary, unfinished, tokens_per_shard, field, processes)
            unfinished.chmod(0o755)
            os.replace(unfinished, folder)
    except OSError as error:
        raise ModelError(f"cannot write {folder}: {error.strerror}; choose another folder") from error
    return folder


def _write(
    texts: Sequence[Path], vocabulary: Path, folder: Path, tokens_per_shard: int, field: str, processes: int | None
) -> None:
    tokenizer = read_vocabulary(vocabulary)
    size, total = tokenizer.get_vocab_size(), size_of(texts)
    dtype = "uint16" if size <= 1 << 16 else "uint32"
    processes = processes or (1 if total < ALONE else cores())
    shards: list[dict[str, int]] = []
    with reading("tokenizing text", total) as read, _pool(vocabulary, processes) as tokenize:
        paragraphs_of = (document for text in texts for document in paragraphs(text, field, read))
        encoded = (document for batch in tokenize(paragraphs_of) for document in batch.documents())
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
        "text_field": field,
        "special": special_ids(tokenizer),
        "shards": shards,
    }
    shutil.copyfile(vocabulary, folder / ("tokenizer.json" if vocabulary.suffix == ".json" else "vocab.txt"))
    (folder / "shards.json").write_text(json.dumps(settings, indent=1) + "\n")


@dataclass(frozen=True)
class _Encoded:
    """Some documents: their ids, one after another, the length of each sentence and the sentences of each document."""

    tokens: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray

    def documents(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The ids and the sentences' lengths of each document that has any."""
        sentences = np.cumsum([0, *self.counts])
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        for first, last in pairwise(sentences):
            if last > first:
                yield self.tokens[ends[first] : ends[last]], self.lengths[first:last]


def _encode(tokenizer: Tokenizer, some: Sequence[list[str]]) -> _Encoded:
    """Documents, given as paragraphs; sentences without a token are left out."""
    split = [sentences_of(document) for document in some]
    flat = iter(tokenizer.encode_batch_fast([s for document in split for s in document], add_special_tokens=False))
    ids = [[e.ids for e in islice(flat, len(document)) if e.ids] for document in split]
    kept = [sentence for document in ids for sentence in document]
    tokens = np.fromiter(chain.from_iterable(kept), np.uint32)
    return _Encoded(tokens, np.array([len(s) for s in kept], np.int64), np.array([len(d) for d in ids], np.int64))


Tokenize = Callable[[Iterator[list[str]]], Iterator[_Encoded]]


@contextmanager
def _pool(vocabulary: Path, processes: int) -> Iterator[Tokenize]:
    """What tokenizes documents in order, in processes of their own where there are several."""
    if processes == 1:
        tokenizer = read_vocabulary(vocabulary)
        yield lambda documents: (_encode(tokenizer, some) for some in _batches(documents))
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, context, _begin, (vocabulary,)) as pool:

        def tokenize(documents: Iterator[list[str]]) -> Iterator[_Encoded]:
            waiting: deque[Future[_Encoded]] = deque()
            for some in _batches(documents):
                waiting.append(pool.submit(_encode_here, some))
                if len(waiting) > AHEAD * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield tokenize
        except BrokenExecutor as error:
            raise ModelError("a process that tokenized was killed: is there memory enough?") from error
        finally:
            pool.shutdown(cancel_futures=True)


_tokenizer: Tokenizer | None = None


def _begin(vocabulary: Path) -> None:
    """In a process of the pool: one core each, so the tokenizer starts no threads."""
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = read_vocabulary(vocabulary)


def _encode_here(some: Sequence[list[str]]) -> _Encoded:
    assert _tokenizer is not None
    return _encode(_tokenizer, some)


def _batches(documents: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    while some := list(islice(documents, BATCH)):
        yield some


Document = tuple[np.ndarray, np.ndarray]


def _write_shard(stem: Path, first: Document, rest: Iterator[Document], dtype: str, limit: int) -> dict[str, int]:
    lengths: list[np.ndarray] = []
    written = 0
    with open(f"{stem}.tokens", "wb") as file:
        document: Document | None = first
        while document is not None:
            file.write(document[0].astype(dtype).tobytes())
            lengths.append(document[1])
            written += len(document[0])
            document = next(rest, None) if written < limit else None
    sentences = np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
    documents = np.cumsum([0, *map(len, lengths)], dtype=np.int64)
    np.save(f"{stem}.sentences.npy", sentences)
    np.save(f"{stem}.documents.npy", documents)
    return {"tokens": written, "sentences": len(sentences) - 1, "documents": len(documents) - 1}


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
    text_field: str = "text"


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
        self.text_field = settings.text_field
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

    @property
    def vocabulary(self) -> Path:
        return vocabulary_in(self.folder)

    def check_made_from(self, texts: Sequence[Path], vocabulary: Path | None, field: str = "text") -> None:
        """Raises `ModelError` where the corpus was made of other texts or with another vocabulary."""
        if texts and field != self.text_field:
            raise ModelError(
                f"{self.folder} was made of {self.text_field!r}, data.text_field is {field!r}: set it back, remove the "
                "folder, or choose another data.folder"
            )
        if texts and tuple(digest(text, ModelError) for text in text_files(texts)) != self.texts_sha256:
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
