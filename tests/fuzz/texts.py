"""Fuzz a library's tokenizer: whatever the text, its ids are those of `tokenizers`.

    python tests/fuzz/texts.py FOLDER VOCAB [--cased] [--seconds 600] [--seed N]

FOLDER is an artifact built for this machine with the vocabulary VOCAB, a vocab.txt or a tokenizer.json. Texts are
pieces of the vocabulary, characters of all of Unicode, marks, spaces, markup of special pieces and bytes that are not
UTF-8; one in three has a pair, one in three is cut. Ends with the first text whose ids differ, and status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import tokenizers

import compile

SPACES = " \t\n\r\0\x0b\x1c\x85\xa0\u200b\u200d\u2028\u3000\ufeff\ufffd"
MARKED = ["[MASK]", "[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK", "[mask]", "##", "##a", "'", "...", "e\u0301\u0327"]


def referee(vocab: Path, cased: bool) -> Any:
    if vocab.suffix == ".json":
        return tokenizers.Tokenizer.from_file(str(vocab))
    return tokenizers.BertWordPieceTokenizer(str(vocab), lowercase=not cased)


def characters() -> list[str]:
    """Every character that Unicode has assigned, twelve times as many from the planes that languages use."""
    known = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    common = [c for c in known if ord(c) < 0x3000 or (0xA000 <= ord(c) < 0x10000 and not 0xAC00 <= ord(c) < 0xD7A4)]
    return known + 12 * common


def random_text(rng: random.Random, known: list[str], pieces: list[str]) -> str:
    parts = []
    for _ in range(rng.randrange(1, 1 << rng.randrange(1, 9))):
        kind = rng.randrange(10)
        if kind < 4:
            piece = rng.choice(pieces)
            parts.append(piece.removeprefix("##") if rng.random() < 0.9 else piece)
        elif kind < 7:
            parts.append(rng.choice(known))
        else:
            parts.append(rng.choice(SPACES if kind < 9 else MARKED))
    text = "".join(parts)
    return rng.choice((text, text, text.upper(), unicodedata.normalize("NFD", text)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("--cased", action="store_true")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, known, tokenizer = random.Random(args.seed), characters(), referee(args.vocab, args.cased)
    pieces, begun = sorted(tokenizer.get_vocab()), time.monotonic()
    texts = tokens = 0
    with compile.load(args.folder, threads=1) as library:
        while time.monotonic() - begun < args.seconds:
            text = random_text(rng, known, pieces)
            pair = random_text(rng, known, pieces) if rng.random() < 1 / 3 else None
            most = rng.randrange(4, 64) if rng.random() < 1 / 3 else None
            given: str | bytes = text
            if rng.random() < 0.2:  # bytes that are not UTF-8 count as replaced
                data = bytearray(text.encode())
                data[rng.randrange(len(data))] = rng.randrange(256)
                given, text = bytes(data), data.decode(errors="replace")
            tokenizer.enable_truncation(most) if most else tokenizer.no_truncation()
            wanted = tokenizer.encode(text, pair)
            ids, segments = library.tokenize(given, pair, most or len(wanted.ids) + 8)
            if ids.tolist() != wanted.ids or segments.tolist() != wanted.type_ids:
                print(f"{given!a} with {pair!a}, at most {most}:\n  {ids.tolist()}\n  for {wanted.ids}")
                return 1
            texts, tokens = texts + 1, tokens + len(wanted.ids)
    print(f"{texts} texts, {tokens} tokens in {time.monotonic() - begun:.0f} s: all as `tokenizers` has them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
