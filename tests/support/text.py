"""The runtime's tokenizer alone, without a model around it: the C compiled for one tokenizer, and called."""

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compile.codegen.vocabulary import write_vocabulary
from compile.linking.link import WARNINGS, find_toolchain, run_compiler
from compile.runtime import INCLUDE, SRC
from compile.targets import find_target
from compile.text.side import TextSide

SOURCES = ("tokenizer.c", "normalize.c", "words.c", "pieces.c", "platform_linux.c", "platform_posix.c")


class Tokens(NamedTuple):
    """ids, segments, texts (−1 for special pieces) and offsets in bytes; overflow: how many were cut off; words."""

    ids: list[int]
    segments: list[int]
    texts: list[int]
    offsets: list[tuple[int, int]]
    overflow: int
    words: list[int]


class _Tokens(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)]
    _fields_ += [(name, ctypes.c_int32) for name in ("max_tokens", "windows", "skip", "count", "overflow")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("ids", "segments", "texts", "begins", "ends", "words")]


class CTokenizer:
    """What C makes of a text by the rules of a text side."""

    def __init__(self, side: TextSide, folder: Path, *options: str) -> None:
        self.sources = write_vocabulary(side, ["PB_TEXT_IDS"], folder)
        library = folder / "text.so"
        command = ["-O2", "-g", "-fPIC", "-shared", *WARNINGS, "-DPB(x)=pb_##x", *options, "-o", library.name]
        command += [f"-I{path}" for path in (INCLUDE, SRC, folder)]
        command += [str(SRC / name) for name in SOURCES] + [path.name for path in self.sources]
        run_compiler(find_toolchain(find_target("host")), command, folder)
        self._call = ctypes.CDLL(str(library)).pb_text_tokens
        self._call.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]

    def __call__(
        self,
        text: bytes,
        pair: bytes | None = None,
        max_tokens: int | None = None,
        windows: bool = False,
        skip: int = 0,
    ) -> Tokens:
        room = 8 * (len(text) + len(pair or b"")) + 80 if max_tokens is None else max_tokens
        arrays: list[NDArray[Any]] = [
            np.zeros(room, kind) for kind in (np.int64, np.int64, np.int8, np.int64, np.int64, np.int32)
        ]
        tokens = _Tokens(ctypes.sizeof(_Tokens), room, windows, skip, 0, 0, *(array.ctypes.data for array in arrays))
        status = self._call(text, len(text), pair, len(pair or b""), ctypes.byref(tokens))
        assert status == 0, status
        ids, segments, texts, begins, ends, words = (array[: tokens.count].tolist() for array in arrays)
        return Tokens(ids, segments, texts, list(zip(begins, ends, strict=True)), tokens.overflow, words)


def characters(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets in UTF-8 as those in characters; what lies inside a character is where it begins."""
    data = np.frombuffer(text.encode() + b"\0", np.uint8)
    places = np.cumsum((data & 0xC0) != 0x80) - 1
    return [(int(places[begin]), int(places[end])) for begin, end in offsets]
