"""A vocabulary for the library's tokenizer: read, checked, and laid out so that loading it does nothing.

Pieces become two double-array tries over UTF-8 bytes (of pieces as they are, and of those written with ##) in one array
of 8-byte nodes: the child of node n for byte b is node base(n) + b if that has the label b. No two nodes have the same
base, so the label tells whose child it is. Base 0 is nobody's: a node with base 0 has no children.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compile.errors import CompileError
from compile.text.side import TextSide

if TYPE_CHECKING:
    from compile.planning.plan import Plan

SPECIAL = {"PB_UNKNOWN": "[UNK]", "PB_CLS": "[CLS]", "PB_SEP": "[SEP]", "PB_PAD": "[PAD]", "PB_MASK": "[MASK]"}
# What a text gives a model: the names that exporters use.
INPUTS = {
    "input_ids": "PB_TEXT_IDS",
    "attention_mask": "PB_TEXT_MASK",
    "input_mask": "PB_TEXT_MASK",
    "token_type_ids": "PB_TEXT_SEGMENTS",
    "segment_ids": "PB_TEXT_SEGMENTS",
}
WITHOUT = "build it for ids alone, with --no-text or without --vocab"
PREFIX = b"##"
MAX_BASE = 1 << 24
WINDOW = 1 << 12  # places that are tried at once


def text_inputs(plan: Plan, vocabulary: TextSide) -> list[str]:
    """What each input of the model takes of a text, in the runtime's words. Raises CompileError if it wants more."""
    inputs = plan.program.inputs
    for value in inputs:
        if value.name not in INPUTS or value.dtype not in ("int64", "int32") or value.shape != (1, plan.program.tokens):
            raise CompileError(
                f"input {value.name!r} is {value.dtype} {list(value.shape)}: text gives a model input_ids, "
                f"attention_mask and token_type_ids of [1, {plan.program.tokens}] integers; {WITHOUT}"
            )
    roles = [INPUTS[value.name] for value in inputs]
    if "PB_TEXT_IDS" not in roles or len(set(roles)) < len(roles):
        raise CompileError(f"text: the model needs one input of ids, at most one mask; {WITHOUT}")
    if not plan.program.elastic and "PB_TEXT_MASK" not in roles:
        raise CompileError(
            f"text: the model takes just {plan.program.tokens} tokens and no attention_mask: export it with one, so "
            f"that a text can be padded, or {WITHOUT}"
        )
    allowed = plan.program.ranges.get(inputs[roles.index("PB_TEXT_IDS")].name)
    if allowed and len(vocabulary.names) > allowed.high:
        raise CompileError(
            f"text: the tokenizer has {len(vocabulary.names)} pieces, but the model has {allowed.high}: give its own"
        )
    return roles


def write_vocabulary(vocabulary: TextSide | None, inputs: Sequence[str], folder: Path) -> list[Path]:
    """vocabulary.h and, where there is a vocabulary, the source that takes in its tables; returns the sources."""
    if vocabulary is None:
        (folder / "vocabulary.h").write_text("#define PB_PIECES 0\n#define PB_PAD -1\n#define PB_TEXT_INPUTS 0\n")
        return []
    from compile.codegen.weights import assembler_source  # beside the plan, which knows tvm
    from compile.kernels.contract import ALIGNMENT

    _require_covered(vocabulary.description)
    ids = {piece: number for number, piece in enumerate(vocabulary.names) if piece is not None}
    lines = [f"#define PB_PIECES {len(vocabulary.names)}", f"#define PB_CASED {int(vocabulary.cased)}"]
    lines += [f"#define {name} {ids.get(piece, -1)}" for name, piece in SPECIAL.items()]
    lines.append(f"#define PB_TEXT_INPUTS {', '.join(inputs)}")
    (folder / "vocabulary.h").write_text("\n".join(lines) + "\n")
    encoded = [(piece or "").encode() for piece in vocabulary.names]
    tables = {
        "pb_trie": double_array(encoded),
        "pb_piece_offsets": np.cumsum([0, *(len(piece) + 1 for piece in encoded[:-1])]).astype("<u4"),
        "pb_piece_text": np.frombuffer(b"".join(piece + b"\0" for piece in encoded), np.uint8),
    }
    source = folder / "vocabulary.c"
    parts = []
    for name, table in tables.items():
        (folder / f"{name}.bin").write_bytes(table.tobytes())
        parts.append(assembler_source(name, alignment=ALIGNMENT))
    source.write_text("".join(parts))
    return [source]


def _require_covered(description: dict[str, Any]) -> None:
    """Raises CompileError for a tokenizer that would get other ids than its own."""
    model, normalizer = description["model"], description["normalizer"] or {}
    if (model["type"], model.get("continuing_subword_prefix"), model.get("max_input_chars_per_word")) != (
        "WordPiece",
        "##",
        100,
    ):
        raise CompileError(f"text: a tokenizer of kind {model['type']} is not covered; {WITHOUT}")
    lowercase = normalizer.get("lowercase")
    settings = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": lowercase}
    if normalizer not in ({**settings, "strip_accents": None}, {**settings, "strip_accents": lowercase}):
        raise CompileError(f"text: the normalizer {normalizer} is not covered; {WITHOUT}")
    if description["pre_tokenizer"] != {"type": "BertPreTokenizer"} or model["unk_token"] != "[UNK]":
        raise CompileError(f"text: a tokenizer that is not BERT's own is not covered; {WITHOUT}")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for token in description["added_tokens"]:
        if token["content"] not in SPECIAL.values() or {flag: token[flag] for flag in plain} != plain:
            raise CompileError(f"text: the added token {token['content']!r} is not covered; {WITHOUT}")


@dataclass(eq=False)
class Node:
    """A node of a trie, and where it stands in the array. piece: the id of the piece that ends here, or -1."""

    children: dict[int, Node] = field(default_factory=dict)
    piece: int = -1
    place: int = -1


def double_array(pieces: Sequence[bytes]) -> NDArray[np.uint32]:
    """(nodes, 2) words: base << 8 | label, and the id of the piece that ends at the node or 2³² - 1.

    Nodes 0 and 1 are the roots: of the pieces as they are and of those after ##. 256 empty nodes follow the last, so
    that no child lies outside. Raises CompileError if there are too many pieces.
    """
    roots = Node(place=0), Node(place=1)
    nodes = list(roots)
    for number, piece in enumerate(pieces):
        rest = len(piece) > len(PREFIX) and piece.startswith(PREFIX)
        node = roots[rest]
        for byte in piece.removeprefix(PREFIX) if rest else piece:
            if byte not in node.children:
                node.children[byte] = Node()
                nodes.append(node.children[byte])
            node = node.children[byte]
        node.piece = number
    bases = _place(nodes)
    array = np.zeros((max(node.place for node in nodes) + 257, 2), np.int64)
    array[:, 1] = -1
    for node in nodes:
        array[node.place, 1] = node.piece
        array[node.place, 0] |= bases.get(node, 0) << 8
        for byte, child in node.children.items():
            array[child.place, 0] |= byte
    return array.astype("<u4")


def _place(nodes: list[Node]) -> dict[Node, int]:
    """Give every node a place, and every node with children a base: the first that fits, for large families first."""
    bases: dict[Node, int] = {}
    # Bit i: a node stands at i; i is somebody's base. Of the first 256 places many could never be reached.
    cells, used = (1 << 256) - 1, 1
    for node in sorted(nodes, key=lambda n: -len(n.children)):
        if not node.children:
            break
        family = sum(1 << byte for byte in node.children)
        first_free = (~cells & (cells + 1)).bit_length() - 1
        begin = first_free - 255
        while True:
            fits = ~(used >> begin) & ((1 << WINDOW) - 1)
            for byte in node.children:
                fits &= ~(cells >> begin + byte)
            if fits:
                break
            begin += WINDOW
        base = begin + (fits & -fits).bit_length() - 1
        if base >= MAX_BASE:
            raise CompileError("--vocab: the pieces are too many or too long for the tokenizer's tables")
        bases[node] = base
        used |= 1 << base
        cells |= family << base
        for byte, child in node.children.items():
            child.place = base + byte
    return bases
