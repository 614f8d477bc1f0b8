"""Ids, segments and offsets by the runtime's C against `tokenizers`, for every kind of tokenizer that it reads."""

import random
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from compile.text.read import read_vocabulary
from compile.text.side import TextSide, make_side
from tests.support.text import CTokenizer, characters
from tests.support.tokenizers import BERT, KINDS, ROBERTA, SHARED, WORDS, random_text

TEXTS = 10_000
FAMILIES = ("BERT uncased", "RoBERTa with a space before", "ModernBERT", "ALBERT")  # of all texts in every run
ADDED = ("[A]", "[B]", "the model", "Néw", "日本", "a b")


class Pair:
    """A tokenizer in C and its referee."""

    def __init__(self, side: TextSide, folder: Path, *options: str) -> None:
        self.referee, self.ours = side.tokenizer, CTokenizer(side, folder, *options)
        self.special = (*BERT, *ADDED) if self.referee.token_to_id("[CLS]") is not None else ROBERTA

    def agree(self, text: str, pair: str | None = None, max_tokens: int | None = None) -> list[int]:
        self.referee.no_truncation()
        if max_tokens is not None:
            self.referee.enable_truncation(max_tokens)
        wanted = self.referee.encode(text, pair)
        got = self.ours(text.encode(), None if pair is None else pair.encode(), max_tokens)
        assert got.ids == wanted.ids, ascii(text)
        assert got.segments == wanted.type_ids
        assert [int(which < 0) for which in got.texts] == wanted.special_tokens_mask
        for which, whole in ((0, text), (1, pair or "")):
            own = [i for i, of in enumerate(got.texts) if of == which]
            assert characters(whole, [got.offsets[i] for i in own]) == [wanted.offsets[i] for i in own], ascii(text)
            goes_on = [[words[i] == words[k] for i, k in pairwise(own)] for words in (got.words, wanted.word_ids)]
            assert goes_on[0] == goes_on[1], ascii(text)
        return got.ids


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    @cache
    def make(kind: str) -> Pair:
        return Pair(make_side(KINDS[kind](), (), kind), tmp_path_factory.mktemp("text"))

    return make


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        *((kind, TEXTS) for kind in FAMILIES),
        *((kind, 1000) for kind in KINDS if kind not in FAMILIES),
        *(pytest.param(kind, TEXTS, marks=pytest.mark.slow) for kind in KINDS if kind not in FAMILIES),
    ],
)
def test_texts_in_many_scripts(kind: str, texts: int, made: Callable[[str], Pair]) -> None:
    pair, rng, ids = made(kind), random.Random(f"{kind} {texts}"), set[int]()
    for _ in range(texts):
        ids.update(pair.agree(random_text(rng, pair.special)))
    assert len(ids) > 400, "the sample reaches few pieces"


@pytest.mark.parametrize("kind", ["BERT cased", "RoBERTa with a space before", "XLM-R", "ALBERT", "added tokens"])
def test_text_that_is_read_in_parts(kind: str, tmp_path: Path) -> None:
    """Of seven bytes, where long ones are read in parts of four thousand."""
    pair, rng = Pair(make_side(KINDS[kind](), (), kind), tmp_path, "-DPB_PART=7"), random.Random(kind)
    for _ in range(1000):
        pair.agree(random_text(rng, pair.special))


@pytest.mark.parametrize("kind", ["BERT uncased", "RoBERTa", "ModernBERT", "ALBERT"])
def test_two_texts_and_truncation(kind: str, made: Callable[[str], Pair]) -> None:
    pair, rng = made(kind), random.Random(2)
    for _ in range(300):
        first, second = (random_text(rng, pair.special) for _ in range(2))
        pair.agree(first, None, rng.randrange(2, 40))
        pair.agree(first, second, rng.randrange(5, 60))
        pair.agree(first, second)


@pytest.mark.parametrize("kind", ["BERT uncased", "added tokens", "RoBERTa with a space before", "XLM-R", "DeBERTa"])
@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text(kind: str, text: str, made: Callable[[str], Pair]) -> None:
    made(kind).agree(text)


@pytest.mark.parametrize("kind", ["BERT uncased", "ModernBERT", "XLM-R"])
def test_hangul_is_composed_and_taken_apart_up_to_its_last_letters(kind: str, made: Callable[[str], Pair]) -> None:
    """The first and the last of leading, middle and final letters, and what stands right before and after them."""
    leads, middles = "\u10ff\u1100\u1112\u1113", "\u1160\u1161\u1175\u1176"
    finals = ("", "\u11a7", "\u11a8", "\u11c2", "\u11c3")
    letters = [f"{a}{b}{c}" for a in leads for b in middles for c in finals]
    whole = [f"{chr(code)}{c}" for code in (0xABFF, 0xAC00, 0xAC01, 0xAC1C, 0xD788, 0xD7A3, 0xD7A4) for c in finals]
    for text in (*letters, *whole):
        made(kind).agree(text)


@pytest.mark.parametrize("kind", ["BERT cased", "RoBERTa", "ALBERT"])
def test_bytes_that_are_not_utf8_count_as_replaced(kind: str, made: Callable[[str], Pair]) -> None:
    pair, rng = made(kind), random.Random(3)
    for _ in range(1000):
        data = bytearray(random_text(rng, WORDS).encode() + b" ")
        for _ in range(rng.randrange(1, 12)):
            data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), 0xC0, 0xE0, 0xED, 0xF0, 0xF4, 0x80, 0xBF))
        data = data[: rng.randrange(len(data))]
        pair.referee.no_truncation()
        assert pair.ours(bytes(data)).ids == pair.referee.encode(data.decode(errors="replace")).ids, bytes(data)


@pytest.mark.parametrize("kind", ["BERT uncased", "RoBERTa", "XLM-R", "DeBERTa", "Unigram of whole lines"])
@pytest.mark.parametrize("unit", ["a", " ", "\u0301", "\u302e\ua953", "ab ", "<s>", "\u1100\u1161", "\u200d", "日"])
def test_long_text_of_one_kind(kind: str, unit: str, made: Callable[[str], Pair]) -> None:
    """What takes more than linear time does not come back from this."""
    pair = made(kind)
    pair.agree(unit * 500)
    pair.ours((unit * 300_000).encode(), None, 8)


@pytest.mark.parametrize("kind", ["RoBERTa", "RoBERTa with blanks in offsets"])
def test_more_blanks_before_a_token_than_16_bits_count(kind: str, made: Callable[[str], Pair]) -> None:
    pair, text = made(kind), f"a{' ' * 70_000}<mask> b"
    pair.referee.no_truncation()
    got, wanted = pair.ours(text.encode()), pair.referee.encode(text)
    assert (got.ids, got.offsets[2]) == (wanted.ids, wanted.offsets[2])


@pytest.mark.parametrize("kind", ["BERT uncased", "RoBERTa with a space before"])
def test_windows_cover_a_long_text(kind: str, made: Callable[[str], Pair]) -> None:
    pair, rng = made(kind), random.Random(4)
    text, question = " ".join(random_text(rng, WORDS) for _ in range(40)), "the model 's"
    pair.referee.no_truncation()
    whole, asked = (pair.referee.encode(part, add_special_tokens=False).ids for part in (text, question))
    room, stride = 48, 10
    for first, extra in ((None, 2), (question, len(asked) + (3 if kind == "BERT uncased" else 4))):
        skip, seen = 0, 0
        while True:
            given = (first.encode(), text.encode()) if first else (text.encode(), None)
            window = pair.ours(*given, room, True, skip)
            own = [
                number for number, which in zip(window.ids, window.texts, strict=True) if which == (first is not None)
            ]
            assert own == whole[skip : skip + room - extra]
            seen = skip + len(own)
            assert window.overflow == len(whole) - seen
            if not window.overflow:
                break
            skip += len(own) - stride
        assert seen == len(whole)


def test_real_vocabulary(tmp_path: Path) -> None:
    path = SHARED / "vocab" / "bert-base-uncased-vocab.txt"
    if not path.exists():
        pytest.skip(f"needs {path}")
    pair, rng = Pair(read_vocabulary(path, False), tmp_path), random.Random(5)
    for _ in range(2000):
        pair.agree(random_text(rng, BERT))


def test_random_vocabularies_of_unigram(tmp_path: Path) -> None:
    """Pieces that contradict each other, of equal scores, one twice in the list, and the unknown one anywhere in it."""
    from tokenizers import models

    rng = random.Random(6)
    for number in range(3):
        words = list(dict.fromkeys("".join(rng.choices("abcé日", k=rng.randrange(1, 5))) for _ in range(30)))
        words += ["ab", "ab"]
        unknown = number * len(words) // 2
        words.insert(unknown, "<unk>")
        tokenizer = Tokenizer(models.Unigram([(word, float(rng.randrange(-4, 0))) for word in words], unknown))
        (tmp_path / str(number)).mkdir()
        pair = Pair(make_side(tokenizer, (), "x"), tmp_path / str(number))
        for _ in range(500):
            pair.agree("".join(rng.choices("abcé日xy", k=rng.randrange(20))))
