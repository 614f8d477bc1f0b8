"""What a model's library says of texts: labels, vectors, entities, answers, pieces for masks; numpy alone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import utf8, whole_number
from .opening import CompileError, Manifest

INT32 = -(2**31), 2**31 - 1
REFUSE, TRUNCATE, WINDOWS = range(3)
ELEMENTS = {"float32": (1, np.float32), "int8": (5, np.int8), "binary": (6, np.uint8)}
Text = str | bytes
Precision = Literal["float32", "int8", "binary"]


class _Label(ctypes.Structure):
    _fields_ = [("label", ctypes.c_int32), ("score", ctypes.c_float)]


class _Entity(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("score", ctypes.c_float),
        ("begin", ctypes.c_int64),
        ("end", ctypes.c_int64),
    ]


class _Answer(ctypes.Structure):
    _fields_ = [
        ("score", ctypes.c_float),
        ("unused", ctypes.c_int32),
        ("begin", ctypes.c_int64),
        ("end", ctypes.c_int64),
    ]


class _Text(ctypes.Structure):
    _fields_ = [
        ("text", ctypes.c_char_p),
        ("text_bytes", ctypes.c_size_t),
        ("pair", ctypes.c_char_p),
        ("pair_bytes", ctypes.c_size_t),
    ]


class _Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)]
    _fields_ += [(name, ctypes.c_int32) for name in ("long_text", "max_tokens", "stride", "longest", "no_answer")]
    _fields_ += [("threshold", ctypes.c_float), ("allow", ctypes.c_void_p)]
    _fields_ += [("allow_count", ctypes.c_int32), ("deny_count", ctypes.c_int32), ("deny", ctypes.c_void_p)]


_P, _I, _TEXT = ctypes.c_void_p, ctypes.c_int32, [ctypes.c_char_p, ctypes.c_size_t]
ARGUMENTS: dict[str, list[Any]] = {
    "classify": [_P, *_TEXT, *_TEXT, _P, _P, _I, _P, _P],
    "embed": [_P, *_TEXT, _P, _P, _I, _P],
    "entities": [_P, *_TEXT, _P, _P, _I, _P, _P],
    "fill": [_P, *_TEXT, _P, _P, _I, _I, _P, _P],
    "answer": [_P, *_TEXT, *_TEXT, _P, _P, _I, _P],
    "classify_all": [_P, _P, _I, _P, _P, _I, _P],
    "embed_all": [_P, _P, _I, _P, _P, _I, _P],
    "convert": [_P, _I, _I, _P],
    "cosine": [_P, _P, _I, _I],
}


class Label(NamedTuple):
    """A label, or a piece for a mask, and how probable it is."""

    name: str
    score: float


class Entity(NamedTuple):
    """What is named in a text, at text[begin:end]; score: the mean of its tokens' probabilities."""

    name: str
    score: float
    begin: int
    end: int


class Answer(NamedTuple):
    """A stretch of a context: text is context[begin:end], empty where there is no answer."""

    text: Text
    score: float
    begin: int
    end: int


class Tasks:
    """The tasks of an open library. What is read at once is `max_tokens` tokens, by default as many as the model takes.

    A longer text raises CompileError, unless it is to be `truncate`d or read in `windows`, which share `stride` tokens
    (by default half of a window, 128 at most; 0: none). Of labels and vectors that gives the mean over the windows.
    """

    manifest: Manifest
    _functions: dict[str, Any]

    def _call(self, name: str, *arguments: Any, overflow: Any = None) -> None:
        """Calls a function on the open model. Raises CompileError."""
        raise NotImplementedError

    def token(self, number: int) -> str:
        """The piece whose id is `number`."""
        raise NotImplementedError

    @property
    def _text_tokens(self) -> int:
        """Of the longest text that the model reads whole."""
        facts = self.manifest.vocabulary
        return min(self.manifest.tokens, (facts and facts.max_tokens) or self.manifest.tokens)

    def classify(
        self,
        text: Text,
        pair: Text | None = None,
        top: int | None = None,
        threshold: float = 0.0,
        truncate: bool = False,
        *,
        windows: bool = False,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        max_tokens: int | None = None,
        stride: int | None = None,
    ) -> list[Label]:
        """The labels of a text, or of a pair, best first: the `top` most probable of those from `threshold` on.

        allow: names of the only labels to tell of; deny: of labels to leave out. Of a regression the scores are its
        values, and `threshold` is not asked. Raises CompileError, also for a model that classifies nothing.
        """
        options = self._options(truncate, windows, max_tokens, stride, threshold, allow, deny)
        labels, count = (_Label * self._room(top))(), ctypes.c_int32()
        overflow = ctypes.c_int32()
        self._call(
            *("classify", *text_and_pair(text, pair), ctypes.byref(options), labels, len(labels), ctypes.byref(count)),
            overflow=overflow,
        )
        return [Label(self.manifest.labels[entry.label], entry.score) for entry in labels[: count.value]]

    def classify_all(
        self,
        texts: Iterable[Text | tuple[Text, Text]],
        top: int | None = None,
        threshold: float = 0.0,
        truncate: bool = False,
        *,
        windows: bool = False,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        max_tokens: int | None = None,
        stride: int | None = None,
    ) -> list[list[Label]]:
        """`classify` for many texts, or pairs of them, with several at once on threads. Raises CompileError."""
        options = self._options(truncate, windows, max_tokens, stride, threshold, allow, deny)
        each, views = self._room(top), _views(texts)
        labels, overflows = (_Label * (each * len(views)))(), (ctypes.c_int32 * len(views))()
        self._call("classify_all", views, len(views), ctypes.byref(options), labels, each, overflow=overflows)
        names = self.manifest.labels
        rows = (labels[i * each : (i + 1) * each] for i in range(len(views)))
        return [[Label(names[entry.label], entry.score) for entry in row if entry.label >= 0] for row in rows]

    def embed(
        self,
        text: Text,
        truncate: bool = False,
        *,
        windows: bool = False,
        precision: Precision = "float32",
        max_tokens: int | None = None,
        stride: int | None = None,
    ) -> NDArray[Any]:
        """A text's vector, (size,), pooled and normalized as its folder says. Raises CompileError.

        precision: "int8", in steps of a 127th of the largest element's size, or "binary", a bit an element in uint8.
        """
        options = self._options(truncate, windows, max_tokens, stride)
        vector, overflow = np.empty(self._vector_size, np.float32), ctypes.c_int32()
        data = text_and_pair(text, None)[:2]
        self._call("embed", *data, ctypes.byref(options), vector.ctypes.data, vector.size, overflow=overflow)
        return self._converted(vector[None], precision)[0]

    def embed_all(
        self,
        texts: Iterable[Text],
        truncate: bool = False,
        *,
        windows: bool = False,
        precision: Precision = "float32",
        max_tokens: int | None = None,
        stride: int | None = None,
    ) -> NDArray[Any]:
        """`embed` for many texts, (texts, size), with several at once on threads. Raises CompileError."""
        options = self._options(truncate, windows, max_tokens, stride)
        views = _views(texts)
        vectors, overflows = np.empty((len(views), self._vector_size), np.float32), (ctypes.c_int32 * len(views))()
        self._call(
            *("embed_all", views, len(views), ctypes.byref(options), vectors.ctypes.data, vectors.shape[1]),
            overflow=overflows,
        )
        return self._converted(vectors, precision)

    def cosine(self, a: ArrayLike, b: ArrayLike) -> float:
        """How alike two vectors of one precision are, −1 to 1: the cosine of the angle between them."""
        first, second = np.ascontiguousarray(a), np.ascontiguousarray(b)
        code = next((code for code, kind in ELEMENTS.values() if first.dtype == kind), None)
        if code is None or first.dtype != second.dtype or first.ndim != 1 or first.shape != second.shape:
            raise CompileError(
                f"vectors are {first.dtype} {list(first.shape)} and {second.dtype} {list(second.shape)}: give two that "
                "`embed` made alike"
            )
        size = self._vector_size if first.dtype == np.uint8 else first.size
        if first.dtype == np.uint8 and first.size != (size + 7) // 8:
            raise CompileError(f"a binary vector has {first.size} bytes, the model's {(size + 7) // 8}")
        return float(self._functions["cosine"](first.ctypes.data, second.ctypes.data, size, code))

    def entities(
        self,
        text: Text,
        truncate: bool = False,
        *,
        windows: bool = False,
        threshold: float = 0.0,
        max_tokens: int | None = None,
        stride: int | None = None,
    ) -> list[Entity]:
        """What is named in a text, in its order, with places as indices of a str or of bytes.

        Of entities that windows show twice the longest stays, then the more probable. Raises CompileError.
        """
        options = self._options(truncate, windows, max_tokens, stride, threshold)
        data, count = text_and_pair(text, None)[:2], ctypes.c_int32()
        room = min(max(data[1], 1), INT32[1]) if windows else self._text_tokens
        while True:
            entities = (_Entity * room)()
            self._call(
                *("entities", *data, ctypes.byref(options), entities, room, ctypes.byref(count)),
                overflow=ctypes.c_int32(),
            )
            if count.value <= room:
                break
            room = count.value
        places = characters(data[0]) if isinstance(text, str) else np.arange(data[1] + 1)
        return [
            Entity(e.name.decode(), e.score, int(places[e.begin]), int(places[e.end])) for e in entities[: count.value]
        ]

    def fill(
        self,
        text: Text,
        top: int = 5,
        truncate: bool = False,
        *,
        windows: bool = False,
        max_tokens: int | None = None,
        stride: int | None = None,
    ) -> list[list[Label]]:
        """For each mask in a text the `top` most probable pieces, best first. Raises CompileError."""
        options = self._options(truncate, windows, max_tokens, stride)
        top, masks = whole_number(top, "top", 1, 1 << 16), ctypes.c_int32()
        data, room = text_and_pair(text, None)[:2], self._text_tokens
        while True:
            pieces = (_Label * (top * room))()
            self._call(
                *("fill", *data, ctypes.byref(options), pieces, top, len(pieces), ctypes.byref(masks)),
                overflow=ctypes.c_int32(),
            )
            if masks.value <= room:
                break
            room = masks.value
        rows = (pieces[top * n : top * (n + 1)] for n in range(masks.value))
        return [[Label(self.token(entry.label), entry.score) for entry in row if entry.label >= 0] for row in rows]

    def answer(
        self,
        question: Text,
        context: Text,
        top: int = 1,
        *,
        no_answer: bool = False,
        threshold: float = 0.0,
        longest: int = 15,
        max_tokens: int | None = None,
        stride: int | None = None,
    ) -> list[Answer]:
        """The `top` best answers to a question that stand in a context of any length, best first.

        The context is read in windows of `max_tokens` (384 at most by default), each with the question. Answers begin
        and end at words, have `longest` tokens at most and a score from `threshold` on. no_answer: that there is none
        is one of the answers, an empty one. Raises CompileError.
        """
        options = self._options(False, True, max_tokens, stride, threshold)
        options.no_answer, options.longest = bool(no_answer), whole_number(longest, "longest", 1, INT32[1])
        data = text_and_pair(utf8(question, "question"), utf8(context, "context"))
        count = ctypes.c_int32()
        answers = (_Answer * whole_number(top, "top", 1, 1 << 16))()
        self._call("answer", *data, ctypes.byref(options), answers, len(answers), ctypes.byref(count))
        places = characters(data[2] or b"") if isinstance(context, str) else np.arange(data[3] + 1)
        found = ((a.score, int(places[a.begin]), int(places[a.end])) for a in answers[: count.value])
        return [Answer(context[begin:end], score, begin, end) for score, begin, end in found]

    @property
    def _vector_size(self) -> int:
        """Of what `embed` gives; 1 for a model that gives none."""
        outputs = (e for e in self.manifest.outputs if e.name in ("sentence_embedding", "last_hidden_state"))
        return next((e.shape[-1] for e in outputs), 1)

    def _room(self, top: int | None) -> int:
        """For labels."""
        most = max(len(self.manifest.labels), 1)
        return most if top is None else min(whole_number(top, "top", 1, INT32[1]), most)

    def _converted(self, vectors: NDArray[np.float32], precision: Precision) -> NDArray[Any]:
        if precision not in ELEMENTS:
            raise CompileError(f"precision is {precision!r}: give one of {', '.join(ELEMENTS)}")
        if precision == "float32":
            return vectors
        code, kind = ELEMENTS[precision]
        size = vectors.shape[1]
        result = np.empty((len(vectors), size if precision == "int8" else (size + 7) // 8), kind)
        for vector, to in zip(vectors, result, strict=True):
            if self._functions["convert"](vector.ctypes.data, size, code, to.ctypes.data):
                raise CompileError("the vector holds what is infinite or no number: there is no such integer")
        return result

    def _options(
        self,
        truncate: bool,
        windows: bool,
        max_tokens: int | None,
        stride: int | None,
        threshold: float = 0.0,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
    ) -> _Options:
        if truncate and windows:
            raise CompileError("truncate and windows: give one of them")
        options = _Options(size=ctypes.sizeof(_Options), long_text=WINDOWS if windows else TRUNCATE * bool(truncate))
        if max_tokens is not None:
            options.max_tokens = whole_number(max_tokens, "max_tokens", 1, self._text_tokens)
        if stride is not None:
            options.stride = whole_number(stride, "stride", 0, self._text_tokens) or -1
        try:
            options.threshold = threshold
        except TypeError as error:
            raise CompileError(f"threshold is {threshold!r}: give a number") from error
        numbers = [None if allow is None else self._numbers(allow, "allow"), self._numbers(deny, "deny")]
        arrays = [None if part is None else (ctypes.c_int32 * max(len(part), 1))(*part) for part in numbers]
        options.allow, options.deny = (array and ctypes.addressof(array) for array in arrays)
        options.allow_count, options.deny_count = (len(part or ()) for part in numbers)
        options.keep = arrays
        return options

    def _numbers(self, names: Iterable[str], what: str) -> list[int]:
        if isinstance(names, str):
            raise CompileError(f"{what} is {names!r}: give a list of labels")
        known = {name: number for number, name in enumerate(self.manifest.labels)}
        wanted = list(names)
        for name in wanted:
            if name not in known:
                raise CompileError(f"{what}: the model has no label {name!r}: it has {', '.join(known) or 'none'}")
        return [known[name] for name in wanted]


def text_and_pair(text: Text, pair: Text | None) -> tuple[bytes, int, bytes | None, int]:
    """Two texts as the C interface takes them."""
    first, second = utf8(text, "text"), None if pair is None else utf8(pair, "pair")
    return first, len(first), second, len(second or b"")


def _views(texts: Iterable[Text | tuple[Text, Text]]) -> Any:
    """pocketbert_text[], which keeps its bytes."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise CompileError(f"texts is of type {type(texts).__name__}: give a list of texts")
    pairs = [text if isinstance(text, tuple) else (text, None) for text in texts]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise CompileError(f"texts has a tuple of {len(wrong[0])}: give single texts and pairs")
    return (_Text * len(pairs))(*(_Text(*text_and_pair(*pair)) for pair in pairs))


def characters(data: bytes) -> NDArray[np.int64]:
    """Which character of a text each of its bytes belongs to, and how many there are."""
    return np.cumsum((np.frombuffer(data + b"\0", np.uint8) & 0xC0) != 0x80) - 1
