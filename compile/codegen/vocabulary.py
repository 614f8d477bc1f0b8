"""A vocabulary for the library's tokenizer: read, checked, and laid out so that loading it does nothing.

Pieces become two double-array tries over UTF-8 bytes (of pieces as they are, and of those written with ##) in one array
of 8-byte nodes: the child of node n for byte b is node base(n) + b if that has the label b. No two nodes have the same
base, so the label tells whose child it is. Base 0 is nobody's: a node with base 0 has no children.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compile.errors import CompileError
from pocketbert.reading import read_bytes

if TYPE_CHECKING:
    from compile.planning.plan import Plan

UNKNOWN, CLS, SEP = "[UNK]", "[CLS]", "[SEP]"
SPECIAL = {"PB_UNKNOWN": UNKNOWN, "PB_CLS": CLS, "PB_SEP": SEP, "PB_PAD": "[PAD]", "PB_MASK": "[MASK]"}
# What a text gives a model: the names that exporters use.
INPUTS = {
    "input_ids": "PB_TEXT_IDS",
    "attention_mask": "PB_TEXT_MASK",
    "input_mask": "PB_TEXT_MASK",
    "token_type_ids": "PB_TEXT_SEGMENTS",
    "segment_ids": "PB_TEXT_SEGMENTS",
}
PREFIX = b"##"
# Unicode's White_Space, which `tokenizers` cuts off the end of a line; Python's also has the separators 1C to 1F.
WHITE_SPACE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f")
MAX_BASE = 1 << 24
WINDOW = 1 << 12  # places that are tried at once


@dataclass(frozen=True)
class Vocabulary:
    """pieces: by id; cased: whether text keeps its case and accents."""

    pieces: tuple[str, ...]
    cased: bool
    sha256: str


def read_vocabulary(path: Path, cased: bool) -> Vocabulary:
    """The pieces of a vocab.txt, one a line, as `tokenizers` reads them: white space at the end of a line is not the
    piece's, and a piece that stands twice has its last line's id. Raises CompileError naming the line that is wrong.
    """
    data = read_bytes(path, CompileError)
    lines = data.removesuffix(b"\n").split(b"\n")
    pieces = []
    for number, line in enumerate(lines, 1):
        try:
            piece = line.decode().rstrip(WHITE_SPACE)
        except UnicodeDecodeError as error:
            raise CompileError(f"--vocab {path}:{number}: not UTF-8: give BERT's vocab.txt") from error
        if "\0" in piece:
            raise CompileError(f"--vocab {path}:{number}: a NUL byte: save the file as UTF-8")
        pieces.append(piece)
    if missing := [piece for piece in (UNKNOWN, CLS, SEP) if piece not in pieces]:
        raise CompileError(f"--vocab {path}: {', '.join(missing)} is missing: not a vocab.txt of BERT's kind")
    return Vocabulary(tuple(pieces), cased, sha256(data).hexdigest())


def text_inputs(plan: Plan, vocabulary: Vocabulary) -> list[str]:
    """What each input of the model takes of a text, in the runtime's words. Raises CompileError if it wants more."""
    inputs = plan.program.inputs
    for value in inputs:
        if value.name not in INPUTS or value.dtype not in ("int64", "int32") or value.shape != (1, plan.program.tokens):
            raise CompileError(
                f"--vocab: input {value.name!r} is {value.dtype} {list(value.shape)}: text gives a model input_ids, "
                f"attention_mask and token_type_ids of [1, {plan.program.tokens}] integers; build without --vocab"
            )
    roles = [INPUTS[value.name] for value in inputs]
    if "PB_TEXT_IDS" not in roles or len(set(roles)) < len(roles):
        raise CompileError("--vocab: the model needs one input of ids, at most one mask: build without --vocab")
    if not plan.program.elastic and "PB_TEXT_MASK" not in roles:
        raise CompileError(
            f"--vocab: the model takes just {plan.program.tokens} tokens and no attention_mask: export it with one, so "
            "that a text can be padded, or build without --vocab"
        )
    allowed = plan.program.ranges.get(inputs[roles.index("PB_TEXT_IDS")].name)
    if allowed and len(vocabulary.pieces) > allowed.high:
        raise CompileError(
            f"--vocab: {len(vocabulary.pieces)} pieces, but the model has {allowed.high}: give its own vocab.txt"
        )
    return roles


def write_vocabulary(vocabulary: Vocabulary | None, inputs: Sequence[str], folder: Path) -> list[Path]:
    """vocabulary.h and, where there is a vocabulary, the source that takes in its tables; returns the sources."""
    if vocabulary is None:
        (folder / "vocabulary.h").write_text("#define PB_PIECES 0\n#define PB_PAD -1\n#define PB_TEXT_INPUTS 0\n")
        return []
    from compile.codegen.weights import assembler_source  # beside the plan, which knows tvm
    from compile.kernels.contract import ALIGNMENT

    ids = {piece: number for number, piece in enumerate(vocabulary.pieces)}
    lines = [f"#define PB_PIECES {len(vocabulary.pieces)}", f"#define PB_CASED {int(vocabulary.cased)}"]
    lines += [f"#define {name} {ids.get(piece, -1)}" for name, piece in SPECIAL.items()]
    lines.append(f"#define PB_TEXT_INPUTS {', '.join(inputs)}")
    (folder / "vocabulary.h").write_text("\n".join(lines) + "\n")
    encoded = [piece.encode() for piece in vocabulary.pieces]
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
