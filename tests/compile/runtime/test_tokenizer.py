"""Text in: the tokenizer against `tokenizers`' BertWordPieceTokenizer, and what it makes of what is no text."""

import ctypes
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import compile
from compile.pipeline import BuildOptions, build_library
from compile.running.runners.qemu import ARM64_ROOT
from compile.running.verify import can_run
from compile.targets import TARGETS
from compile.text.read import read_vocabulary

tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers: pip install -e '.[test]'")

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SPACES = " \t\n\r\u00a0\u2003\u3000\u2028"
# Whole planes, and again the parts of them in which text is cleaned, decomposed and sorted.
RANGES = [
    (0x21, 0x7F),
    (0x80, 0x250),
    (0x300, 0x370),
    (0x370, 0x3000),
    (0x3000, 0x3100),
    (0x4E00, 0xD800),
    (0xE000, 0x10000),
]
RANGES += [(0x10000, 0x20000), (0x1D100, 0x1D200), (0x20000, 0x30000), (0xE0000, 0xE0200), (0x30000, 0x110000)]
# Marks that are kept although they combine: Hangul tones, musical signs, vowel signs that are also killers.
SORTED_MARKS = (
    "\u302e\u302f\u1b44\ua953\U0001d165\U0001d166\U0001d16d\U0001d15e\U0001d160\u3099\u0301\u0327\u0345\u0902\u200d"
)


class Tokenizer:
    """A vocabulary in a library and in the referee."""

    def __init__(self, vocabulary: Path, cased: bool, folder: Path) -> None:
        self.cased, self.folder, self.library = cased, folder, compile.load(folder)
        self.referee = tokenizers.BertWordPieceTokenizer(str(vocabulary), lowercase=not cased)

    def agree(self, text: str | bytes, pair: str | None = None, max_tokens: int | None = None) -> list[int]:
        readable = text.decode(errors="replace") if isinstance(text, bytes) else text
        self.referee.no_truncation()
        if max_tokens:
            self.referee.enable_truncation(max_tokens)
        wanted = self.referee.encode(readable, pair)
        ids, segments = self.library.tokenize(text, pair, max_tokens or 4 * len(text) + 4 * len(pair or "") + 3)
        assert ids.tolist() == wanted.ids, ascii(text)
        assert segments.tolist() == wanted.type_ids
        return wanted.ids


def random_text(rng: random.Random, characters: list[str], length: int) -> str:
    special = [*SPECIAL, "[MASK", "[mask]", "\0", "\ufffd", *SORTED_MARKS]
    parts = (rng.choices((characters, "abcXYZ", SPACES, ".,-[]'", special), (12, 4, 3, 2, 2))[0] for _ in range(length))
    return "".join(rng.choice(part) for part in parts)


@pytest.fixture(scope="module")
def characters() -> list[str]:
    """3000 characters of all planes; text of these is what the vocabulary below has pieces for."""
    rng = random.Random(0)
    return [chr(rng.choice(range(*rng.choice(RANGES)))) for _ in range(3000)]


@pytest.fixture(scope="module")
def pieces(characters: list[str]) -> list[str]:
    """Every one of the characters, as it is and as clean-up leaves it; words and their parts from the documents."""
    seen = dict.fromkeys(SPECIAL)
    for lowercase in (True, False):
        clean = tokenizers.normalizers.BertNormalizer(lowercase=lowercase).normalize_str
        for character in [*characters, *SORTED_MARKS, *map(chr, range(0x21, 0x7F)), *map(chr, range(0x1100, 0x11C3))]:
            for kept in clean(character).split():
                seen |= dict.fromkeys(
                    (character, kept, f"##{character}", f"##{kept}", *kept, *(f"##{c}" for c in kept))
                )
        trained = tokenizers.BertWordPieceTokenizer(lowercase=lowercase)
        texts = [
            (ROOT / name).read_text() for name in ("README.md", "docs/performance.md", "CONTRIBUTING.md", "LICENSE")
        ]
        trained.train_from_iterator(texts, 1500, show_progress=False)
        seen |= dict.fromkeys(sorted(trained.get_vocab()))
    return [piece for piece in seen if not set(piece) & set("\n\r\0")]


Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(host: Any, graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build(vocab.txt, cased, table, kind, inputs, target): a library of lookups, for 16 tokens.

    It takes shorter texts where ids are int64 and there is no mask: then none of its kernels is a generic one.
    """

    def make(
        vocab: Path,
        cased: bool = False,
        table: int = 9000,
        kind: int = TensorProto.INT64,
        inputs: tuple[str, ...] = ("token_type_ids", "input_ids"),
        target: Any = host,
    ) -> Path:
        b = graph()
        given = {name: b.input(name, [1, 16], kind) for name in inputs}
        y = b("Gather", b.normal(table, 4), given["input_ids"])
        if "token_type_ids" in given:
            y = b("Add", y, b("Gather", b.normal(2, 4), given["token_type_ids"]))
        if "attention_mask" in given:
            y = b("Add", y, b("Unsqueeze", b("Cast", given["attention_mask"], to=1), b.const(np.array([2]))))
        folder = tmp_path_factory.mktemp("text") / "artifact"
        options = BuildOptions(seq_len=16, vocabulary=read_vocabulary(vocab, cased))
        return build_library(b.model(y), "words", target, folder, options).folder

    return make


def write(folder: Path, pieces: list[str]) -> Path:
    path = folder / "vocab.txt"
    path.write_bytes("".join(f"{piece}\n" for piece in pieces).encode())
    return path


@pytest.fixture(scope="module")
def uncased(pieces: list[str], build: Build, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    vocabulary = write(tmp_path_factory.mktemp("vocabulary"), pieces)
    return Tokenizer(vocabulary, False, build(vocabulary, table=len(pieces)))


@pytest.fixture(scope="module")
def cased(pieces: list[str], build: Build, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    vocabulary = write(tmp_path_factory.mktemp("vocabulary"), pieces)
    return Tokenizer(vocabulary, True, build(vocabulary, cased=True, table=len(pieces)))


@pytest.fixture(scope="module", params=["uncased", "cased"])
def tokenizer(request: Any) -> Tokenizer:
    return request.getfixturevalue(request.param)


def test_mixed_scripts(tokenizer: Tokenizer, characters: list[str]) -> None:
    rng, ids = random.Random(1), []
    for _ in range(1500):
        ids += tokenizer.agree(random_text(rng, characters, rng.randrange(150)))
    assert len(set(ids)) > len(characters), "the sample reaches few pieces"
    assert ids.count(1) < len(ids) / 4, "most words are unknown: the sample shows little"


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text(tokenizer: Tokenizer, text: str) -> None:
    tokenizer.agree(text)


def test_pairs_and_truncation(tokenizer: Tokenizer, characters: list[str]) -> None:
    rng = random.Random(2)
    for _ in range(600):
        text, pair = (random_text(rng, characters, rng.choice((0, 3, 20, 21, 60))) for _ in range(2))
        tokenizer.agree(text, None, rng.randrange(2, 40))
        tokenizer.agree(text, pair, rng.randrange(3, 40))
        tokenizer.agree(text, pair)


def test_two_texts_share_an_odd_room_by_their_whole_lengths(tokenizer: Tokenizer) -> None:
    for first, second in ((50, 40), (40, 50), (40, 40), (3, 50), (50, 3), (4, 4), (4, 3), (3, 4)):
        for room in range(3, 16):
            tokenizer.agree("a " * first, "b " * second, room)


def test_what_is_not_utf8_counts_as_replaced(tokenizer: Tokenizer, characters: list[str]) -> None:
    rng = random.Random(3)
    for _ in range(1000):
        data = bytearray(random_text(rng, characters, 40).encode())
        for _ in range(rng.randrange(1, 12)):
            data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), 0xC0, 0xE0, 0xED, 0xF0, 0xF4, 0x80, 0xBF))
        tokenizer.agree(bytes(data[: rng.randrange(len(data))]))
    for _ in range(300):
        tokenizer.agree(rng.randbytes(80))


def test_half_a_surrogate_pair_is_left_out(tokenizer: Tokenizer) -> None:
    assert tokenizer.library.tokenize("a\ud800b \udc00")[0].tolist() == tokenizer.agree("ab")


def test_marks_are_sorted_by_class(tokenizer: Tokenizer) -> None:
    rng = random.Random(4)
    for _ in range(1500):
        tokenizer.agree("a" + "".join(rng.choices(SORTED_MARKS + "b", k=rng.randrange(12))) + rng.choice("a \0"))


@pytest.mark.parametrize("length", [99, 100, 101, 102])
@pytest.mark.parametrize("character", ["a", "é", "が", "e\u0301", "\U0001d400", "\uac01"])
def test_words_of_a_hundred_characters(length: int, character: str, tokenizer: Tokenizer) -> None:
    tokenizer.agree(f"{character * length} b {'a' * (length - 1)}{character}")


def test_line_of_a_megabyte(tokenizer: Tokenizer) -> None:
    units = ["a", "a ", "#", " ", "\0", "é", "日", "\u0301", "\u302e\U0001d165\u302e", "[MASK]", "[MASK", "\uac01"]
    tokenizer.agree("".join(unit * (1_000_000 // len(units) // len(unit.encode()) + 1) for unit in units))


@pytest.mark.parametrize("unit", [b"a", b"\xcc\x81", b"\xe3\x80\xae\xea\xa5\x93", b"\xf0\x90", b"\0", b"[MASK", b"a "])
def test_megabyte_of_one_kind(unit: bytes, tokenizer: Tokenizer) -> None:
    """What takes more than linear time does not come back from this."""
    ids, _ = tokenizer.library.tokenize(unit * (1_000_000 // len(unit)), b"b" * 1_000_000, max_tokens=5)
    assert ids.tolist() == tokenizer.agree(unit * 500, "b" * 500, 5)


@pytest.mark.parametrize(
    ("name", "cased", "each"),
    [
        ("wikipedia-en.valid.txt", False, 1),
        ("wikipedia-en.valid.txt", True, 1),
        pytest.param("wikipedia-en.train.txt", False, 1, marks=pytest.mark.slow),
        # What case changes is a step that is left out: a fifth of the 54 MB shows it.
        pytest.param("wikipedia-en.train.txt", True, 5, marks=pytest.mark.slow),
    ],
)
def test_lines_of_real_text(name: str, cased: bool, each: int, build: Build) -> None:
    text, vocabulary = SHARED / "text" / name, SHARED / "vocab" / "bert-base-uncased-vocab.txt"
    if not (text.exists() and vocabulary.exists()):
        pytest.skip(f"needs {text} and {vocabulary}")
    lines = text.read_text().split("\n")[::each]
    real = Tokenizer(vocabulary, cased, build(vocabulary, cased, table=30522))
    for begin in range(0, len(lines), 2000):
        part = lines[begin : begin + 2000]
        for line, wanted in zip(part, real.referee.encode_batch(part), strict=True):
            assert real.library.tokenize(line, None, len(line) + 2)[0].tolist() == wanted.ids, line


def test_pieces_have_names(tokenizer: Tokenizer, pieces: list[str]) -> None:
    assert [tokenizer.library.token(i) for i in range(len(pieces))] == pieces
    for number in (-1, len(pieces), 2**31 - 1, -(2**31)):
        with pytest.raises(compile.CompileError, match="no piece"):
            tokenizer.library.token(number)


@pytest.mark.parametrize(("pair", "room", "words"), [(None, 1, "no room"), ("b", 2, "no room"), (None, -5, "no room")])
def test_no_room(pair: str | None, room: int, words: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(compile.CompileError, match=words):
        tokenizer.library.tokenize("a", pair, room)


def in_c(library: Any, function: str) -> Any:
    """A function of the library that takes two texts first."""
    call = getattr(library._library, f"{library.manifest.name}_{function}")
    call.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    call.argtypes += [ctypes.c_int32, *[ctypes.c_void_p] * 3] if function == "tokenize" else [ctypes.c_void_p]
    return call


def test_null_pointers(tokenizer: Tokenizer) -> None:
    call, numbers = in_c(tokenizer.library, "tokenize"), (ctypes.c_int64 * 8)()
    count = ctypes.c_int32(-1)
    good = [b"a", 1, b"b", 1, 8, ctypes.addressof(numbers), ctypes.addressof(numbers), ctypes.byref(count)]
    for position in (0, 2, 5, 6, 7):
        assert call(*[None if i == position else value for i, value in enumerate(good)]) == 1
    assert count.value == -1
    assert call(None, 0, None, 0, *good[4:]) == 0
    assert count.value == 2


def test_runs_at_the_length_of_the_text(exported: Callable, tmp_path: Path) -> None:
    vocabulary = write(tmp_path, [*SPECIAL, "a", "b", "c"])
    artifact = compile.build(
        exported("mobilebert-tiny", seq_len=16), target="host", seq_len=16, vocab=vocabulary, out=tmp_path / "artifact"
    )
    texts = (("", None), ("a b", None), ("a b", ""), ("a b", "c"), ("a " * 100, None), ("a " * 100, "b " * 100))
    with compile.load(artifact.folder, threads=2) as library:
        for text, pair in texts:
            ids, segments = (array[None] for array in library.tokenize(text, pair))
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": segments}
            got, wanted = library.run_text(text, pair), library.run(inputs)
            assert got["last_hidden_state"].shape == (1, ids.size, 512)
            assert all(np.array_equal(got[name], wanted[name]) for name in wanted)


def test_closed_model(tokenizer: Tokenizer) -> None:
    library = compile.load(tokenizer.folder)
    library.close()
    with pytest.raises(compile.CompileError, match="closed"):
        library.run_text("a")
    assert library.tokenize("a")[0].tolist() == tokenizer.agree("a")


def test_model_of_one_length_gets_padded_text(build: Build, tmp_path: Path) -> None:
    vocabulary = write(tmp_path, ["x", *SPECIAL, "a"])
    names = ("attention_mask", "input_ids", "token_type_ids")
    with compile.load(build(vocabulary, kind=TensorProto.INT32, inputs=names)) as library:
        inputs = {name: np.zeros((1, 16), np.int32) for name in names}
        inputs["input_ids"][0] = [3, 6, 4, 2, 4] + [1] * 11
        inputs["attention_mask"][0, :5] = inputs["token_type_ids"][0, 3:5] = 1
        (got,), (wanted,) = library.run_text("a", "?").values(), library.run(inputs).values()
        assert np.array_equal(got, wanted)
        # Nothing of a longer pair before is left, neither ids nor segments nor the mask.
        library.run_text("a " * 4, "a " * 40)
        assert np.array_equal(library.run_text("a", "?").popitem()[1], wanted)


def test_model_of_ids_alone(build: Build, tmp_path: Path) -> None:
    with compile.load(build(write(tmp_path, [*SPECIAL, "a"]), inputs=("input_ids",))) as library:
        wanted = library.run({"input_ids": np.array([[2, 5, 1, 3, 5, 3]])})
        assert all(np.array_equal(wanted[name], array) for name, array in library.run_text("a ?", "a").items())


def test_library_without_a_vocabulary(mobilebert_library: Path) -> None:
    with compile.load(mobilebert_library) as library:
        assert library.manifest.vocabulary is None
        for call in (library.tokenize, library.run_text):
            with pytest.raises(compile.CompileError, match=r"no tokenizer.*--vocab"):
                call("a")
        assert in_c(library, "tokenize")(b"a", 1, None, 0, 8, None, None, None) == 9
        with pytest.raises(compile.CompileError, match="no piece 0"):
            library.token(0)


def test_manifest_names_the_vocabulary(tokenizer: Tokenizer, pieces: list[str]) -> None:
    entry = tokenizer.library.manifest.vocabulary
    assert (entry.pieces, entry.cased) == (len(pieces), tokenizer.cased)
    assert re.fullmatch("[0-9a-f]{64}", entry.sha256)


GOOD = "".join(f"{piece}\n" for piece in (*SPECIAL, "a", "b", "##a", "##", "##b")).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GOOD.replace(b"[UNK]\n", b""), r"\[UNK\] is missing"),
        (GOOD.replace(b"[CLS]\n", b"").replace(b"[SEP]\n", b""), r"\[CLS\], \[SEP\] is missing"),
        (GOOD + b"\xff\xfe\n", "vocab.txt:11: not UTF-8"),
        (GOOD + b"\xed\xa0\x80\n", "vocab.txt:11: not UTF-8"),
        (GOOD + b"a\0b\n", "vocab.txt:11: a NUL"),
        (b"", "missing"),
        (None, "cannot read .*No such file"),
    ],
)
def test_wrong_vocabulary(data: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(compile.CompileError, match=words):
        read_vocabulary(path, cased=False)


@pytest.mark.parametrize(
    "data", [GOOD.replace(b"\n", b"\r\n"), GOOD.removesuffix(b"\n")], ids=["CRLF", "no last newline"]
)
def test_line_ends_do_not_matter(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(data)
    assert read_vocabulary(tmp_path / "vocab.txt", cased=True).names[5:] == ("a", "b", "##a", "##", "##b")


LINES = st.lists(
    st.sampled_from([*SPECIAL, "a", "b", "##a", "##b", "c", "##", "é", "", "x y", "\ufeff", "\u200b"]).flatmap(
        lambda piece: st.text(
            "\r\t\v\f \x1c\x1f\x85\xa0\u1680\u180e\u2003\u200b\u2028\u2029\u202f\u3000\ufeff", max_size=3
        ).map(piece.__add__)
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(lines=LINES, begin=st.sampled_from(["", "\ufeff"]), end=st.sampled_from(["", "\n", "\r\n", "\n\n"]))
def test_odd_lines_have_the_ids_that_tokenizers_gives_them(
    lines: list[str], begin: str, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Blanks of every kind at their ends, a byte order mark, empty ones, the same piece twice."""
    path = tmp_path_factory.mktemp("lines", numbered=True) / "vocab.txt"
    path.write_text(begin + "\n".join([*SPECIAL, *lines]) + end, encoding="utf-8", newline="")
    wanted = tokenizers.models.WordPiece.read_file(str(path))
    pieces = read_vocabulary(path, cased=False).names
    assert {piece: number for number, piece in enumerate(pieces)} == wanted


def test_text_by_a_vocabulary_of_odd_lines(build: Build, tmp_path: Path) -> None:
    """The first [SEP], "a" and "##b" are overruled; of the others only the ends are cut off."""
    lines = [
        "\ufeff[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "a",
        "##b",
        "",
        "\xa0",
        " b",
        "b\xa0 ",
        "[SEP]\u3000",
        "a\x85",
        "c\x1c",
        "##b\t",
    ]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    tokenizer = Tokenizer(path, False, build(path, table=len(lines)))
    assert tokenizer.agree("a b abb ac c [PAD] [SEP] \xa0") == [2, 11, 9, 11, 13, 13, 1, 1, 1, 1, 1, 10, 10]
    assert [tokenizer.library.token(i) for i in (4, 6, 7, 9, 10, 11)] == ["a", "", "", "b", "[SEP]", "a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": 5}, "6 pieces, but the model has 5"),
        ({"inputs": ("input_ids", "position_ids")}, "'position_ids'"),
        ({"inputs": ("input_ids",), "kind": TensorProto.INT32}, "no attention_mask"),
    ],
)
def test_model_that_text_does_not_fit(options: dict[str, Any], words: str, build: Build, tmp_path: Path) -> None:
    with pytest.raises(compile.CompileError, match=words):
        build(write(tmp_path, [*SPECIAL, "a"]), **options)


def test_cased_without_a_vocabulary() -> None:
    with pytest.raises(compile.CompileError, match=r"--cased.*--vocab"):
        compile.build("mobilebert-tiny", cased=True)


PROGRAM = r"""
#include <dlfcn.h>
#include <stdio.h>
#include "words.h"

int main(int argc, char **argv)
{
    static char line[1 << 16];
    int64_t ids[64], segments[64];
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    const pocketbert_functions *(*functions)(void);
    if (!library || !(*(void **)&functions = dlsym(library, "words_functions")))
        return 2;
    for (size_t size[2]; fread(size, sizeof size, 1, stdin) == 1;) {
        int32_t count;
        const char *pair = size[1] ? line + size[0] : NULL;
        if (fread(line, 1, size[0] + size[1], stdin) != size[0] + size[1] ||
            functions()->tokenize(line, size[0], pair, size[1], 64, ids, segments, &count) != 0)
            return 3;
        for (int32_t i = 0; i < count; i++)
            printf("%lld,%lld ", (long long)ids[i], (long long)segments[i]);
        puts("");
    }
    return 0;
}
"""


@pytest.mark.skipif(
    can_run(TARGETS["arm64-linux"]) is not None, reason="needs qemu-user and libc6-arm64-cross (Debian)"
)
def test_arm64(uncased: Tokenizer, characters: list[str], pieces: list[str], build: Build, tmp_path: Path) -> None:
    from compile.linking.link import find_toolchain, run_compiler

    target, rng = TARGETS["arm64-linux"], random.Random(5)
    folder = build(write(tmp_path, pieces), table=len(pieces), target=target)
    (tmp_path / "main.c").write_text(PROGRAM)
    run_compiler(find_toolchain(target), ["-I", str(folder / "include"), "main.c", "-o", "main"], tmp_path)
    texts = [[random_text(rng, characters, rng.randrange(1, 90)).encode() for _ in range(2)] for _ in range(200)]
    data = b"".join(np.array([len(a), len(b)], np.uint64).tobytes() + a + b for a, b in texts)
    command = ["qemu-aarch64", "-cpu", "cortex-a53", "-L", str(ARM64_ROOT), "./main", str(folder / "libwords.so")]
    done = subprocess.run(command, input=data, capture_output=True, cwd=tmp_path, check=True)
    for (text, pair), line in zip(texts, done.stdout.splitlines(), strict=True):
        ids, segments = uncased.library.tokenize(text, pair, 64)
        assert line.split() == [f"{i},{s}".encode() for i, s in zip(ids, segments, strict=True)]
