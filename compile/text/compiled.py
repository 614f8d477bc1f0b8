"""A tokenizer's description -> constants and tables for the runtime, or one line: what of it is not covered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import pre_tokenizers

from compile.errors import CompileError
from compile.text import unicode
from compile.text.normal import add_steps
from compile.text.side import TextSide
from compile.text.tables import NORMAL, PIECES, RAW, REST, Tables

WITHOUT = "build it for ids alone, with --no-text or without --vocab"
UNKNOWN_PENALTY = 10.0  # of Unigram, below the least score
FLAGS = ("single_word", "lstrip", "rstrip")
MAX_CHARACTERS = 1 << 30


@dataclass(frozen=True)
class CompiledText:
    """defines: constants by their names in config.h; tables: arrays by the names of their symbols."""

    defines: dict[str, str]
    tables: dict[str, NDArray[np.generic]]


def compile_text(side: TextSide, lower: bool = False) -> CompiledText:
    """lower: with a map to lower case, by which answers are compared.

    Raises CompileError for a tokenizer that the runtime would not give the same ids as `tokenizers` does."""
    description, tables = side.description, Tables()
    arrays: dict[str, NDArray[Any]] = {
        "pb_added": np.zeros(2, "<i4"),
        "pb_compositions": np.zeros(3, "<u4"),
        "pb_merge_begin": np.zeros(1, "<u4"),
        "pb_merges": np.zeros(2, "<u4"),
        "pb_merge_result": np.zeros(1, "<i4"),
        "pb_byte_pieces": np.zeros(256, "<i4"),
        "pb_scores": np.zeros(1, "<f8"),
    }
    defines = {"PB_PIECES": str(len(side.names)), "PB_MAX_TOKENS": str(min(side.max_tokens or 0, MAX_CHARACTERS))}
    try:
        defines |= _add_model(description, tables, arrays)
        steps, more = add_steps(description["normalizer"], tables)
        defines |= more | {"PB_STEPS": ", ".join(steps) or "{0, 0}", "PB_STEP_COUNT": str(len(steps))}
        if any("COMPOSE" in step for step in steps):
            arrays["pb_compositions"] = np.array(unicode.compositions(), "<u4").reshape(-1)
            defines["PB_COMPOSITIONS"] = str(len(unicode.compositions()))
        defines |= _add_splitter(description, tables)
        defines |= _add_added(side, tables, arrays)
        defines |= _templates(description)
        defines["PB_LOWER"] = str(tables.add_map(unicode.lower()) if lower else -1)
        defines["PB_CUTS"] = str(int(_cuts(side, defines)))
    except CompileError as error:
        raise CompileError(f"text: the tokenizer has {error}, which is not covered: {WITHOUT}") from error
    padding = side.tokenizer.token_to_id
    pad = next((number for name in ("[PAD]", "<pad>") if (number := padding(name)) is not None), -1)
    defines["PB_PAD"] = str(pad)
    names = [None if name is None else name.encode() + b"\0" for name in side.names]
    sizes = [len(name or b"") for name in names]
    offsets = np.cumsum([0, *sizes[:-1]])
    offsets[[name is None for name in names]] = (1 << 32) - 1
    arrays["pb_piece_offsets"] = offsets.astype("<u4")
    arrays["pb_piece_text"] = np.frombuffer(b"".join(name or b"" for name in names), np.uint8)
    return CompiledText(defines, arrays | tables.arrays())


def _cuts(side: TextSide, defines: dict[str, str]) -> bool:
    """Whether a text may be read in parts that begin with a blank between two letters or digits."""
    local = not any(step in defines["PB_STEPS"] for step in ("STRIP", "REPLACE", "RUNS"))
    normalizer = side.tokenizer.normalizer
    kept = normalizer is None or normalizer.normalize_str("a b").startswith("a ")
    for token in side.description["added_tokens"]:
        content = token["content"]
        inside = any(character.isspace() for character in content)
        strips = (token["lstrip"] and content[0].isalnum()) or (token["rstrip"] and content[-1].isalnum())
        local = local and not inside and not strips
    return local and kept and defines["PB_METASPACE_SPLITS"] == "1"


def _add_model(description: dict[str, Any], tables: Tables, arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    model = description["model"]
    if model["type"] == "WordPiece":
        return _add_wordpiece(model, tables)
    if model["type"] == "BPE":
        return _add_bpe(model, arrays)
    if model["type"] == "Unigram":
        return _add_unigram(model, tables, arrays)
    raise CompileError(f"a model of kind {model['type']}")


def _add_wordpiece(model: dict[str, Any], tables: Tables) -> dict[str, str]:
    pieces, prefix = model["vocab"], model["continuing_subword_prefix"]
    if model["unk_token"] not in pieces:
        raise CompileError(f"no piece {model['unk_token']!r} for what is unknown")
    for piece, number in pieces.items():
        tables.add_word(PIECES, piece.encode(), number)
        if piece.startswith(prefix):
            tables.add_word(REST, piece.removeprefix(prefix).encode(), number)
    longest = min(model["max_input_chars_per_word"], MAX_CHARACTERS)
    return {
        "PB_MODEL": "PB_WORDPIECE",
        "PB_UNKNOWN": str(pieces[model["unk_token"]]),
        "PB_UNKNOWN_SCORE": "0.0",
        "PB_LONGEST_WORD": str(longest),
    }


def _add_bpe(model: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    pieces = model["vocab"]
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(option):
            raise CompileError(f"BPE with {option}")
    letters = _letters_of_bytes()
    if missing := [letter for letter in letters if letter not in pieces]:
        raise CompileError(f"BPE without a piece for each byte ({missing[0]!r} is missing)")
    arrays["pb_byte_pieces"] = np.array([pieces[letter] for letter in letters], "<i4")
    ranks = {(pieces[a], pieces[b]): (rank, pieces[a + b]) for rank, (a, b) in enumerate(model["merges"])}
    results = np.zeros(max(len(model["merges"]), 1), "<i4")
    for rank, result in ranks.values():
        results[rank] = result
    order = sorted(ranks)
    left = np.array([pair[0] for pair in order], np.int64)
    arrays["pb_merge_begin"] = np.searchsorted(left, np.arange(max(pieces.values()) + 2)).astype("<u4")
    merges = [(pair[1], ranks[pair][0]) for pair in order] or [(0, 0)]
    arrays["pb_merges"] = np.array(merges, "<u4").reshape(-1)
    arrays["pb_merge_result"] = results
    return {"PB_MODEL": "PB_BPE", "PB_UNKNOWN": "-1", "PB_UNKNOWN_SCORE": "0.0", "PB_LONGEST_WORD": "0"}


def _letters_of_bytes() -> list[str]:
    """The letter that byte-level BPE writes for each byte: printable Latin-1 as it is, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    letters = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


def _add_unigram(model: dict[str, Any], tables: Tables, arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    pieces, unknown = model["vocab"], model["unk_id"]
    if unknown is None:
        raise CompileError("Unigram without a piece for what is unknown (unk_id)")
    if model.get("byte_fallback"):
        raise CompileError("Unigram with byte_fallback")
    for number, (piece, _) in enumerate(pieces):
        tables.add_word(PIECES, piece.encode(), number)
    scores = np.array([score for _, score in pieces], "<f8")
    if not np.isfinite(scores).all():
        raise CompileError("a score that is not a number")
    arrays["pb_scores"] = scores
    return {
        "PB_MODEL": "PB_UNIGRAM",
        "PB_UNKNOWN": str(unknown),
        "PB_UNKNOWN_SCORE": float(scores.min() - UNKNOWN_PENALTY).hex(),
        "PB_LONGEST_WORD": "0",
    }


def _add_splitter(description: dict[str, Any], tables: Tables) -> dict[str, str]:
    """How normalized text falls into words."""
    parts = list(_flat(description["pre_tokenizer"], "pretokenizers"))
    kinds = [part["type"] for part in parts]
    byte_level = description["model"]["type"] == "BPE"
    if byte_level != (kinds == ["ByteLevel"]):
        raise CompileError(f"{description['model']['type']} with the pre-tokenizer {', '.join(kinds) or 'none'}")
    result = {"PB_METASPACE": "PB_NONE", "PB_METASPACE_SPLITS": "1", "PB_PREFIX_SPACE": "0", "PB_CLASSES": "0"}
    if byte_level:
        if not parts[0]["use_regex"]:
            raise CompileError("the pre-tokenizer ByteLevel without use_regex")
        values = np.zeros(unicode.CODE_POINTS, np.uint16)
        for number, pattern in ((1, r"\s"), (2, r"\p{L}"), (3, r"\p{N}")):
            values[unicode.regex_class(pattern)] = number
        return result | {
            "PB_SPLIT": "PB_SPLIT_BYTES",
            "PB_CLASSES": str(tables.add_map(values)),
            "PB_PREFIX_SPACE": str(int(parts[0]["add_prefix_space"])),
        }
    if kinds in (["BertPreTokenizer"], ["Whitespace"]):
        values = unicode.word_classes(kinds[0])
        if kinds == ["Whitespace"]:  # not \w are words, too
            values = np.array([3, 1, 0], np.uint16)[values]
        split = "PB_SPLIT_BERT" if kinds == ["BertPreTokenizer"] else "PB_SPLIT_WORDS"
        return result | {"PB_SPLIT": split, "PB_CLASSES": str(tables.add_map(values))}
    if kinds and kinds[-1] == "Metaspace":
        if parts[-1]["replacement"] != "\u2581":
            raise CompileError(f"Metaspace with {parts[-1]['replacement']!r}")
        result["PB_METASPACE"] = f"PB_{parts[-1]['prepend_scheme'].upper()}"
        result["PB_METASPACE_SPLITS"] = str(int(parts[-1]["split"]))
        kinds = kinds[:-1]
    if kinds == ["WhitespaceSplit"]:
        return result | {"PB_SPLIT": "PB_SPLIT_SPACE"}
    if not kinds:
        return result | {"PB_SPLIT": "PB_SPLIT_NONE"}
    raise CompileError(f"the pre-tokenizer {', '.join(kinds)}")


def _add_added(side: TextSide, tables: Tables, arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    """Tokens that are found in the text as they are, or after normalization."""
    added: list[tuple[int, int]] = []
    word_characters = 0
    normalizer = side.tokenizer.normalizer
    for token in side.description["added_tokens"]:
        content, flags = token["content"], sum(1 << i for i, flag in enumerate(FLAGS) if token[flag])
        root = NORMAL if token["normalized"] else RAW
        if token["normalized"] and normalizer:
            content = normalizer.normalize_str(content)
        if not content:
            raise CompileError(f"an added token {token['content']!r} of which normalization leaves nothing")
        if flags > 1 and content != content.strip():
            raise CompileError(f"an added token {token['content']!r} that has blanks at its ends and strips them")
        tables.add_word(root, content.encode(), len(added))
        added.append((token["id"], flags))
        if token["single_word"] and not word_characters:
            word_characters = tables.add_map((unicode.word_classes("Whitespace") == 0).astype(np.uint16))
    if added:
        arrays["pb_added"] = np.array(added, "<i4").reshape(-1)
    return {"PB_WORD_CHARACTERS": str(word_characters)}


def _templates(description: dict[str, Any]) -> dict[str, str]:
    """Special pieces around texts, and whether offsets leave blanks out."""
    single, pair = [("FIRST", 0, 0)], [("FIRST", 0, 0), ("SECOND", 0, 1)]
    trims, keeps = False, False
    for part in _flat(description["post_processor"], "processors"):
        kind = part["type"]
        if kind == "TemplateProcessing":
            single = _template(part["single"], part["special_tokens"])
            pair = _template(part["pair"], part["special_tokens"])
        elif kind in ("BertProcessing", "RobertaProcessing"):
            cls, sep = ("SPECIAL", part["cls"][1], 0), ("SPECIAL", part["sep"][1], 0)
            bert = kind == "BertProcessing"
            single = [cls, ("FIRST", 0, 0), sep]
            between, second = ([sep], 1) if bert else ([sep, sep], 0)
            pair = [cls, ("FIRST", 0, 0), *between, ("SECOND", 0, second), ("SPECIAL", part["sep"][1], second)]
        elif kind != "ByteLevel":
            raise CompileError(f"the post-processor {kind}")
        if kind in ("RobertaProcessing", "ByteLevel") and part["trim_offsets"]:
            trims, keeps = True, part["add_prefix_space"]
    for items, texts in ((single, ["FIRST"]), (pair, ["FIRST", "SECOND"])):
        if sorted(kind for kind, _, _ in items if kind != "SPECIAL") != texts:
            raise CompileError("a template without each text just once")
    return {
        "PB_SINGLE": _items(single),
        "PB_PAIR": _items(pair),
        "PB_SINGLE_SPECIALS": str(len(single) - 1),
        "PB_PAIR_SPECIALS": str(len(pair) - 2),
        "PB_TRIM": str(int(trims)),
        "PB_TRIM_KEEPS_PREFIX": str(int(keeps)),
    }


def _template(pieces: Sequence[dict[str, Any]], special: dict[str, Any]) -> list[tuple[str, int, int]]:
    items = []
    for piece in pieces:
        ((kind, said),) = piece.items()
        if kind == "Sequence":
            items.append(("FIRST" if said["id"] == "A" else "SECOND", 0, said["type_id"]))
        else:
            items += [("SPECIAL", number, said["type_id"]) for number in special[said["id"]]["ids"]]
    return items


def _items(items: Sequence[tuple[str, int, int]]) -> str:
    if len(items) > 64 or any(not 0 <= n < 1 << 31 for item in items for n in item[1:]):
        raise CompileError("a template of more than 64 pieces, or of ids that no vocabulary has")
    return ", ".join(f"{{PB_PIECE_{kind}, {number}, {segment}}}" for kind, number, segment in items)


def _flat(part: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    if part is None:
        return
    if part["type"] == "Sequence":
        for inner in part[key]:
            yield from _flat(inner, key)
    else:
        yield part
