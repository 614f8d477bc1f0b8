"""Run a compiled library from Python, through its C interface.

This file, `arrays` and what they import go into wheels as they are, so it is numpy and modules beside this one alone;
what a wheel does otherwise stands in `opening`, in whose place `opening_in_wheel` goes.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import converted, readable, tensors, whole_number, writable
from .opening import CompileError, Manifest, RunError, Tensor, open_artifact
from .tasks import ARGUMENTS, INT32, Answer, Entity, Label, Tasks, characters, text_and_pair

__all__ = ["Answer", "Entity", "Label", "Library", "Record", "Tokens", "load", "read_manifest"]


MAX_THREADS = 64
MOST_TOKENS, MOST_SPECIAL = 8, 64  # of a byte of text, and around texts
# POCKETBERT_ERROR_… of pocketbert.h, by their numbers.
STATUSES = {
    1: "ARGUMENT",
    2: "SHAPE",
    3: "RANGE",
    4: "MEMORY",
    5: "CPU",
    6: "THREAD",
    7: "BUSY",
    8: "LIBRARY",
    9: "VOCABULARY",
    10: "FORK",
    11: "TASK",
    12: "LONG",
    13: "CANCELLED",
}
FUNCTIONS = ("open", "run", "close", "last_error", "encode", "run_text", "token")


class _Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int32),
        ("profile", ctypes.c_int32),
        ("cores", ctypes.c_uint64),
        ("cancel", ctypes.c_void_p),
        ("log", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
    ]


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)


class _Record(ctypes.Structure):
    _fields_ = [
        ("call", ctypes.c_int32),
        ("thread", ctypes.c_int32),
        ("start_ns", ctypes.c_int64),
        ("end_ns", ctypes.c_int64),
    ]


class _Tokens(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)]
    _fields_ += [(name, ctypes.c_int32) for name in ("max_tokens", "windows", "skip", "count", "overflow")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("ids", "segments", "texts", "begins", "ends", "words")]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, or of two, each array (tokens,).

    ids, segments: int64, as the model takes them;
    texts: 0 and 1 for the first text and the second, −1 for special pieces around them;
    begins, ends: places in the text, as indices of a str's characters or a bytes' bytes; 0 for special pieces;
    words: int32, which word of its text each is of, as the tokenizer parts it; −1 for special pieces;
    overflow: how many tokens there are beyond these.
    """

    ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    texts: NDArray[np.int8]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    words: NDArray[np.int32]
    overflow: int

    @property
    def special(self) -> NDArray[np.bool_]:
        """Which are special pieces around the texts."""
        return self.texts < 0


class Record(NamedTuple):
    """When a kernel ran. `call`: its number in the manifest's `calls`, −1 the whole run; ns of a monotonic clock."""

    call: int
    thread: int
    start_ns: int
    end_ns: int


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of an artifact folder. Raises CompileError if it is missing, damaged or of another format."""
    return Manifest.read(folder)


class Library(Tasks):
    """A model open in this process. Use as a context manager.

    Any thread may call it: runs wait for each other, and `close` for a run. To run several at once, open several. After
    `fork` the child loads its own: a model that it inherits raises CompileError.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int = 0,
        profile: bool = False,
        trusted_keys: Iterable[str] | None = None,
        log: Callable[[str], None] | None = None,
        verify: bool = True,
    ) -> None:
        threads = whole_number(threads, "threads", 0, MAX_THREADS)
        self._model = ctypes.c_void_p()
        self._lock, self._process = threading.RLock(), os.getpid()
        self.manifest, self._library = open_artifact(Path(folder), trusted_keys, verify)
        name, path = self.manifest.name, Path(folder) / self.manifest.library
        try:
            opened, self._run, self._close, self._last_error, self._encode, self._run_text, self._token = (
                getattr(self._library, f"{name}_{function}") for function in FUNCTIONS
            )
        except AttributeError as error:
            raise CompileError(f"{path} is not the library of {name!r}: build it again") from error
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32]
        text = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
        self._encode.argtypes = [*text, ctypes.c_void_p]
        self._run_text.argtypes = [ctypes.c_void_p, *text, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p]
        self._token.argtypes, self._token.restype = [ctypes.c_int32], ctypes.c_char_p
        self._functions = {function: getattr(self._library, f"{name}_{function}") for function in ARGUMENTS}
        for function, arguments in ARGUMENTS.items():
            self._functions[function].argtypes = arguments
        self._functions["cosine"].restype = ctypes.c_float
        self._close.argtypes = [ctypes.c_void_p]
        self._last_error.argtypes, self._last_error.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._profile = getattr(self._library, f"{name}_profile")
        self._profile.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._cancel = ctypes.c_int32()
        if log is not None and not callable(log):
            raise CompileError(f"log is {log!r}: give a function of a line")
        self._log = _LOG(lambda _, message: log(message.decode()) if log else None)
        options = _Options(
            *(ctypes.sizeof(_Options), threads, bool(profile), 0, ctypes.addressof(self._cancel)),
            ctypes.cast(self._log, ctypes.c_void_p) if log else None,
        )
        self._require(opened(ctypes.byref(options), ctypes.byref(self._model)), None, f"{path}: ")

    def _require(self, status: int, model: ctypes.c_void_p | None, where: str = "") -> None:
        """Raises RunError for a status that is not OK."""
        if status:
            raise RunError(where + self._last_error(model).decode(), STATUSES.get(status, str(status)))

    @property
    def cancelled(self) -> bool:
        """Set it, from any thread, and runs raise CompileError, one under way within a layer, until it is set back."""
        return bool(self._cancel.value)

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self._cancel.value = bool(value)

    @contextmanager
    def _open_model(self) -> Iterator[ctypes.c_void_p]:
        """The model's handle, for this thread alone. Raises CompileError if it is closed or the parent process's."""
        if os.getpid() != self._process:  # the lock may be held by a thread that the child does not have
            raise CompileError("this model was opened before fork(), by the parent process: load it again in this one")
        with self._lock:
            if not self._model:
                raise CompileError("this model is closed: load it again")
            yield self._model

    def run(self, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Every output by name. Raises CompileError on wrong names, shapes, types or ids outside their table.

        Where the manifest says `shorter_sequences`, inputs may have any number of tokens up to the model's, and the
        outputs are those of a model for just that length. Where it says `batch`, inputs may have 1 to so many rows.

        Integer inputs of another integer type are converted; anything else must have the model's type.
        """
        arrays = [self._input(entry, inputs) for entry in self.manifest.inputs]
        unknown = set(inputs) - {entry.name for entry in self.manifest.inputs}
        if unknown:
            raise CompileError(f"the model has no input {sorted(unknown)[0]!r}")
        tokens = self._tokens(self.manifest.inputs[0], arrays[0]) if arrays else self.manifest.tokens
        sequences = len(arrays[0]) if self.manifest.batch > 1 else 0
        outputs = {e.name: np.empty(e.shape_for(tokens, sequences), e.dtype) for e in self.manifest.outputs}
        self.run_into(arrays, list(outputs.values()))
        return outputs

    def run_into(self, inputs: list[NDArray[Any]], outputs: list[NDArray[Any]]) -> None:
        """`run` on arrays in the model's order, which are read and written in place.

        Inputs that are strided, misaligned or of the other byte order are copied first. Raises CompileError for an
        output that is, or is read-only, and for one that shares memory with another array.
        """
        wanted = self.manifest
        for kind, arrays, entries in (("inputs", inputs, wanted.inputs), ("outputs", outputs, wanted.outputs)):
            if len(arrays) != len(entries):
                raise CompileError(f"{len(arrays)} {kind}, the model has {len(entries)}")
        reads = [readable(array, entry) for array, entry in zip(inputs, wanted.inputs, strict=True)]
        writes = [writable(array, entry) for array, entry in zip(outputs, wanted.outputs, strict=True)]
        with self._open_model() as model:
            self._require(self._run(model, tensors(reads), len(reads), tensors(writes), len(writes)), model)

    def tokenize(
        self, text: str | bytes, pair: str | bytes | None = None, max_tokens: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and segments of a text, or of two, each (tokens,): [CLS] text [SEP] pair [SEP].

        The longer text is truncated first, to max_tokens in all (by default the model's). In bytes, what is not UTF-8
        is read as U+FFFD. Raises CompileError if the library has no tokenizer.
        """
        tokens = self.encode(text, pair, max_tokens)
        return tokens.ids, tokens.segments

    def encode(
        self,
        text: str | bytes,
        pair: str | bytes | None = None,
        max_tokens: int | None = None,
        windows: bool = False,
        skip: int = 0,
    ) -> Tokens:
        """The tokens of a text, or of two, with where they stand and how many were cut off.

        windows: cut only the last text; skip: leave out so many of its tokens at the beginning. `windows` in a loop:
        see `each_window`. Raises CompileError.
        """
        texts = text_and_pair(text, pair)
        most = self._text_tokens if max_tokens is None else whole_number(max_tokens, "max_tokens", *INT32)
        room = max(min(most, MOST_TOKENS * (texts[1] + texts[3]) + MOST_SPECIAL), 0)
        arrays: list[NDArray[Any]] = [np.empty(room, kind) for kind in ("i8", "i8", "i1", "i8", "i8", "i4")]
        skip = whole_number(skip, "skip", 0, INT32[1])
        given = _Tokens(
            ctypes.sizeof(_Tokens), room, bool(windows), skip, 0, 0, *(array.ctypes.data for array in arrays)
        )
        self._require(self._encode(*texts, ctypes.byref(given)), None)
        ids, segments, which, begins, ends, words = (array[: given.count] for array in arrays)
        for number, (whole, data) in enumerate(((text, texts[0]), (pair, texts[2]))):
            if isinstance(whole, str):
                places, own = characters(data or b""), which == number
                begins[own], ends[own] = places[begins[own]], places[ends[own]]
        return Tokens(ids, segments, which, begins, ends, words, given.overflow)

    def each_window(
        self, text: str | bytes, pair: str | bytes | None = None, max_tokens: int | None = None, stride: int = 0
    ) -> Iterator[Tokens]:
        """Windows over the last text, each sharing `stride` tokens with the one before. Raises CompileError."""
        skip = 0
        while True:
            tokens = self.encode(text, pair, max_tokens, windows=True, skip=skip)
            yield tokens
            step = int((tokens.texts == (pair is not None)).sum()) - stride
            if not tokens.overflow:
                return
            if step <= 0:
                raise CompileError(f"stride {stride}: a window has no more tokens of the text: give a smaller one")
            skip += step

    def run_text(self, text: str | bytes, pair: str | bytes | None = None) -> dict[str, NDArray[Any]]:
        """`tokenize` and `run` in one: every output by name, for just the text's tokens. Raises CompileError."""
        texts = text_and_pair(text, pair)
        outputs = {e.name: np.empty(e.shape, e.dtype) for e in self.manifest.outputs}
        views, count = tensors(list(outputs.values())), ctypes.c_int32()
        with self._open_model() as model:
            self._require(self._run_text(model, *texts, views, len(outputs), ctypes.byref(count)), model)
        shapes = (view.shape[: view.rank] for view in views)
        return {
            name: array.reshape(-1)[: math.prod(shape)].reshape(shape)
            for (name, array), shape in zip(outputs.items(), shapes, strict=True)
        }

    def _call(self, name: str, *arguments: Any, overflow: Any = None) -> None:
        arrays = () if overflow is None else (ctypes.byref(overflow),)
        with self._open_model() as model:
            status = self._functions[name](model, *arguments, *arrays)
            if STATUSES.get(status) == "LONG" and overflow is not None:
                over = max(overflow) if isinstance(overflow, ctypes.Array) else overflow.value
                raise RunError(
                    f"the text has {over} tokens more than the model takes: shorten it, or give truncate=True or "
                    "windows=True",
                    "LONG",
                )
            self._require(status, model)

    def token(self, number: int) -> str:
        """The piece whose id is `number`. Raises CompileError where there is none."""
        number = whole_number(number, "a piece's id")
        piece = self._token(number) if 0 <= number <= INT32[1] else None
        if piece is None:
            raise CompileError(f"there is no piece {number}: the vocabulary has less, or the library has none")
        return piece.decode()

    def _tokens(self, entry: Tensor, array: NDArray[Any]) -> int:
        """How many tokens an input has; the model's own number where it does not say."""
        axis = entry.token_axis
        return array.shape[axis] if axis is not None and axis < array.ndim else self.manifest.tokens

    def _input(self, entry: Tensor, inputs: Mapping[str, ArrayLike]) -> NDArray[Any]:
        if entry.name not in inputs:
            raise CompileError(f"input {entry.name!r} is missing")
        array = converted(inputs[entry.name], entry)
        tokens, longest = self._tokens(entry, array), self.manifest.tokens
        batch = self.manifest.batch
        sequences = min(len(array), batch) if batch > 1 and array.ndim and len(array) else 0
        if array.shape != (entry.shape_for(tokens, sequences) if 1 <= tokens <= longest else entry.shape):
            raise CompileError(
                f"input {entry.name!r} has shape {list(array.shape)}, the model wants {list(entry.shape)}"
            )
        return array

    def profile(self) -> list[Record]:
        """When each kernel of the last run ran, the whole run first. Only of a model that was opened with `profile`."""
        records, count = ctypes.POINTER(_Record)(), ctypes.c_int32()
        with self._open_model() as model:
            self._require(self._profile(model, ctypes.byref(records), ctypes.byref(count)), model)
            return [Record(r.call, r.thread, r.start_ns, r.end_ns) for r in records[: count.value]]

    def close(self) -> None:
        """Free the model, once a run under way has ended. What is called afterwards raises CompileError."""
        with self._lock if os.getpid() == self._process else nullcontext():
            model, self._model = self._model, ctypes.c_void_p()
        if model:
            self._close(model)

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_close"):
            self.close()


def load(
    folder: str | Path,
    threads: int = 0,
    profile: bool = False,
    trusted_keys: Iterable[str] | None = None,
    log: Callable[[str], None] | None = None,
    verify: bool = True,
) -> Library:
    """Open the library in an artifact folder built for this machine: code of whoever made it, with all your rights.

    threads: 0 is the library's own default;
    profile: keep when every kernel ran, for `Library.profile`;
    trusted_keys: public keys, as in the .pub file of `--new-key`. One of them must have signed the artifact (`--sign`).
    log: called with a line for each failure, on the thread that it happens on. It must not call the model;
    verify: read the whole library first and compare its sha256 with the build's. False compares just its size, and so
    opens large libraries sooner; with trusted_keys all is read anyway. It shows damage, and not that somebody else put
    another artifact in its place.

    Raises CompileError.
    """
    return Library(folder, threads, profile, trusted_keys, log, verify)
