"""Small tokenizers of every kind that the runtime reads, trained on the spot, and texts that try them."""

import random
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SPACES = " \t\n\r\u00a0\u2003\u3000\u2028\u0085"
# Whole planes, and again the parts of them in which text is cleaned, decomposed and sorted.
RANGES = [(0x21, 0x7F), (0x80, 0x250), (0x300, 0x370), (0x370, 0x3000), (0x3000, 0x3100), (0x4E00, 0xD800)]
RANGES += [(0xE000, 0x10000), (0x10000, 0x20000), (0x1D100, 0x1D200), (0x20000, 0x30000), (0xE0000, 0xE0200)]
RANGES += [(0x30000, 0x110000), (0x600, 0x700), (0x900, 0xA00), (0x1100, 0x1200), (0xAC00, 0xAD00), (0xFB00, 0x10000)]
# Marks that are kept although they combine: Hangul tones, musical signs, vowel signs that are also killers; joiners.
MARKS = (
    "\u302e\u302f\u1b44\ua953\U0001d165\U0001d166\U0001d16d\U0001d15e\U0001d160"
    "\u3099\u0301\u0327\u0345\u0902\u200d\u0323\u0315"
)
EMOJI = (
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1eb\U0001f1f7"
    "\u2764\ufe0f\U0001f44d\U0001f3fd\u00a9\u2122"
)
WORDS = (
    "the",
    "Model",
    "isn't",
    "they'LL",
    "we've",
    "''quoted``",
    "x" * 101,
    "naïve",
    "İstanbul",
    "ΣΑΣ",
    "ﬁne",
    "①②",
    "한국어",
    "日本語",
)
WORDS += (
    "ﷺ",
    "ẛ̣",
    "Å",
    "e\u0301",
    "...",
    "--",
    "12.5%",
    "नमस्ते",
    "สวัสดี",
    "مرحبا",
    "שלום",
    "\u0600a",
    "a\u0327\u0301\u0323",
    "ｶﾞ",
    "\r\n",
)


@cache
def corpus() -> tuple[str, ...]:
    """Lines of the project's own documents, and of some other scripts."""
    names = ("README.md", "docs/performance.md", "docs/architecture.md", "CONTRIBUTING.md", "LICENSE")
    lines = [line for name in names for line in (ROOT / name).read_text().split("\n")]
    return (*lines, *("日本語 のテキスト 한국어 텍스트 مرحبا بالعالم привет мир naïve café Ünïcödé ΣΑΣ", *WORDS) * 5)


@cache
def real_lines() -> tuple[str, ...]:
    path = SHARED / "text" / "wikipedia-en.valid.txt"
    return tuple(path.read_text().split("\n")) if path.exists() else corpus()


def random_text(rng: random.Random, special: tuple[str, ...]) -> str:
    """Words, odd blanks, characters of all planes, marks, emoji, NUL, special pieces whole and broken."""
    parts = []
    for _ in range(rng.randrange(12)):
        kind = rng.randrange(9)
        if kind < 2:
            line = rng.choice(real_lines())
            begin = rng.randrange(len(line) + 1)
            parts.append(line[begin : begin + rng.randrange(40)])
        elif kind == 2:
            parts.append(rng.choice(WORDS))
        elif kind == 3:
            parts.append(rng.choice(SPACES) * rng.choice((1, 1, 1, 2, 3)))
        elif kind == 4:
            parts.append("".join(chr(_code(rng)) for _ in range(rng.randrange(1, 6))))
        elif kind == 5:
            parts.append(rng.choice("aeiou日가क\u00a9\u2122") + "".join(rng.choices(MARKS, k=rng.randrange(1, 5))))
        elif kind == 6:
            begin = rng.randrange(len(EMOJI))
            parts.append(EMOJI[begin : begin + rng.randrange(1, 5)])
        elif kind == 7:
            token = rng.choice(special)
            parts.append(rng.choice(("", " ", "  ")) + rng.choice((token, token, token[:-1], token.lower())))
        else:
            parts.append(
                rng.choice(("\0", "\ufffd", "\u200b", "'s", "'", "▁", "Ġ", "\x85", "a" * rng.randrange(90, 120)))
            )
        parts.append(rng.choice(("", "", " ")))
    return "".join(parts)


def _code(rng: random.Random) -> int:
    code = rng.randrange(*rng.choice(RANGES))
    return code if not 0xD800 <= code < 0xE000 else 0x61


def _template(first: str, last: str, tokenizer: Tokenizer, pair: str) -> Any:
    ends = [(piece, tokenizer.token_to_id(piece)) for piece in (first, last)]
    return processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=ends)


def wordpiece(normalizer: Any, special: tuple[str, ...] = BERT, pre_tokenizer: Any = None, **options: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    if options:
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]", **options)
    tokenizer.post_processor = _template("[CLS]", "[SEP]", tokenizer, "[CLS] $A [SEP] $B:1 [SEP]:1")
    return tokenizer


def byte_level(normalizer: Any = None, space: bool = False, trim: bool | None = True) -> Tokenizer:
    """trim: None for a template without trimmed offsets, as ModernBERT's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=list(ROBERTA),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    ids = {piece: tokenizer.token_to_id(piece) for piece in ROBERTA}
    if trim is None:
        tokenizer.post_processor = _template("<s>", "</s>", tokenizer, "<s> $A </s> $B </s>")
        tokenizer.add_tokens([AddedToken(" " * n, normalized=n % 2 == 0) for n in range(2, 6)])
    else:
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=trim, add_prefix_space=space
        )
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    return tokenizer


def unigram(
    normalizer: Any, pre_tokenizer: Any, special: tuple[str, ...] = ROBERTA, unknown: str = "<unk>"
) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.UnigramTrainer(
        vocab_size=1200, special_tokens=list(special), show_progress=False, unk_token=unknown
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    first, last = (special[0], special[2]) if special is ROBERTA else ("[CLS]", "[SEP]")
    tokenizer.post_processor = _template(first, last, tokenizer, f"{first} $A {last} {last} $B {last}")
    tokenizer.add_special_tokens([AddedToken(special[4], lstrip=True, normalized=False)])
    return tokenizer


def bert(**options: Any) -> Callable[[], Tokenizer]:
    return lambda: wordpiece(normalizers.BertNormalizer(**options))


def with_added_tokens() -> Tokenizer:
    """Added tokens of every kind; pieces of a model that goes on without a prefix, and with short words."""
    tokenizer = wordpiece(
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        pre_tokenizer=pre_tokenizers.Whitespace(),
        max_input_chars_per_word=12,
        continuing_subword_prefix="##",
    )
    tokenizer.add_tokens(
        [
            AddedToken("Néw", normalized=True),
            AddedToken("the", normalized=True, single_word=True),
            AddedToken("the model", normalized=False),
            AddedToken("日本", single_word=True, normalized=False),
            AddedToken("[A]", lstrip=True, rstrip=True, normalized=False),
            AddedToken("[B]", lstrip=True, normalized=True),
            AddedToken("a b", normalized=False),
        ]
    )
    return tokenizer


def metaspace(scheme: str = "always", split: bool = True) -> Any:
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)


KINDS: Mapping[str, Callable[[], Tokenizer]] = {
    "BERT uncased": bert(),
    "BERT cased": bert(lowercase=False),
    "BERT with accents": bert(strip_accents=False),
    "BERT cased without accents": bert(lowercase=False, strip_accents=True),
    "BERT with Chinese words": bert(handle_chinese_chars=False),
    "BERT uncleaned": bert(clean_text=False),
    "added tokens": with_added_tokens,
    "RoBERTa": byte_level,
    "RoBERTa with a space before": lambda: byte_level(space=True),
    "RoBERTa with blanks in offsets": lambda: byte_level(trim=False),
    "ModernBERT": lambda: byte_level(normalizers.NFC(), trim=None),
    "byte-level NFKC": lambda: byte_level(normalizers.NFKC()),
    "XLM-R": lambda: unigram(
        normalizers.Precompiled(charsmap()), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace()])
    ),
    "multilingual e5": lambda: unigram(
        normalizers.Sequence([normalizers.Precompiled(charsmap()), normalizers.Replace(Regex(" {2,}"), " ")]),
        metaspace(),
    ),
    "ALBERT": lambda: unigram(
        normalizers.Sequence(
            [
                normalizers.Replace("``", '"'),
                normalizers.Replace("''", '"'),
                normalizers.NFKD(),
                normalizers.StripAccents(),
                normalizers.Lowercase(),
                normalizers.Precompiled(charsmap()),
            ]
        ),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace("first")]),
        BERT,
        "[UNK]",
    ),
    "DeBERTa": lambda: unigram(
        normalizers.Sequence(
            [
                normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
                normalizers.NFC(),
                normalizers.Strip(left=False, right=True),
            ]
        ),
        metaspace("first"),
        BERT,
        "[UNK]",
    ),
    "Unigram of whole lines": lambda: unigram(
        normalizers.Sequence([normalizers.Nmt(), normalizers.NFD(), normalizers.Strip()]),
        metaspace("never", split=False),
    ),
}


@cache
def charsmap() -> bytes:
    """A map as SentencePiece's nmt_nfkc: compatibility characters, controls, odd blanks, letters with their accents."""
    words: dict[bytes, str] = {
        "\u200b".encode(): " ",
        b"\x01": "",
        b"\x1e": "",
        "\u00ad".encode(): "",
        b"\t": " ",
        b"\n": " ",
        b"\r": " ",
    }
    for code in range(0x80, 0x30000):
        if not 0xD800 <= code < 0xE000 and (text := unicodedata.normalize("NFKC", chr(code))) != chr(code):
            words[chr(code).encode()] = text
        elif len(parts := unicodedata.normalize("NFD", chr(code))) == 2 and not 0xAC00 <= code < 0xD7A4:
            words[parts.encode()] = chr(code)
    strings = list(dict.fromkeys(words.values()))
    data = "\0".join(strings).encode() + b"\0"
    places, place = {}, 0
    for string in strings:
        places[string] = place
        place += len(string.encode()) + 1
    return darts({word: places[string] for word, string in words.items()}) + data


def darts(words: Mapping[bytes, int]) -> bytes:
    """A double array as Darts writes it, with its size before it."""
    root: dict[int, Any] = {}
    for word, value in words.items():
        node = root
        for byte in word:
            node = node.setdefault(byte, {})
        node[-1] = value
    units = np.zeros(1 << 20, np.int64)
    taken = np.zeros(1 << 20, bool)
    taken[0] = True
    offsets, free, waiting, used = set[int](), 1, [(0, root)], 1
    while waiting:
        place, node = waiting.pop()
        labels = [max(label, 0) for label in node]
        while taken[free]:
            free += 1
        cell = free
        while True:
            offset = cell ^ labels[0]
            if offset not in offsets and not any(taken[offset ^ label] for label in labels):
                break
            cell += 1
        offsets.add(offset)
        units[place] |= (place ^ offset) << 10
        for label, child in node.items():
            at = offset ^ max(label, 0)
            taken[at] = True
            used = max(used, at | 0xFF)
            if label < 0:
                units[place] |= 1 << 8
                units[at] = 1 << 31 | child
            else:
                units[at] |= label
                waiting.append((at, child))
    units = units[: used + 1]
    return np.array([units.size * 4], "<u4").tobytes() + units.astype("<u4").tobytes()
