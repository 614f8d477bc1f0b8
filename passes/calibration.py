"""Texts as inputs of a model: what its layers are sampled on in place of random ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from passes.errors import PassError
from passes.inputs import random_inputs, table_rows
from passes.plain_texts import plain_texts
from pocketbert.reading import WHITE_SPACE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = 0.1  # the share of words that a vocabulary may lack to be one of English
LINES = 64  # of the file that are used, spread evenly over it


def read_texts(path: Path) -> list[str]:
    """The file's lines that are not blank, at most LINES of them, without a byte order mark. Raises PassError."""
    texts = [line.removesuffix("\r") for line in _read(path).removeprefix("\ufeff").split("\n") if line.strip()]
    if not texts:
        raise PassError(f"{path}: holds no text; give a file with one text a line")
    return texts[:: -(-len(texts) // LINES)]


def read_tokenizer(path: Path, cased: bool) -> Tokenizer:
    """BERT's tokenizer with the words of a vocab.txt; cased: it tells upper from lower case. Raises PassError."""
    from tokenizers import BertWordPieceTokenizer

    words = {line.rstrip(WHITE_SPACE): index for index, line in enumerate(_read(path).removesuffix("\n").split("\n"))}
    if missing := {"[UNK]", "[CLS]", "[SEP]"} - set(words):
        raise PassError(f"--vocab: {min(missing)} is missing; give the model's vocab.txt")
    tokenizer: Tokenizer = BertWordPieceTokenizer(words, lowercase=not cased)._tokenizer
    return tokenizer


def plain_inputs(model: onnx.ModelProto, tokenizer: Tokenizer) -> tuple[Mapping[str, np.ndarray], ...]:
    """`plain_texts` as the model's inputs; none where it takes more than a text gives or knows too few words."""
    rows, inputs = dict(table_rows(model.graph)), {value.name for value in model.graph.input}
    inputs -= {tensor.name for tensor in model.graph.initializer}
    if not all(name in rows or "mask" in name for name in inputs) or not inputs & set(rows):
        return ()
    words, table = tokenizer.get_vocab(), max(rows[name] for name in inputs & set(rows))
    texts = plain_texts()
    ids = [number for encoding in tokenizer.encode_batch(texts) for number in encoding.ids]
    unknown = sum(ids.count(words.get(piece, -1)) for piece in ("[UNK]", "<unk>"))
    if max(words.values()) >= table or unknown > UNKNOWN * len(ids):
        return ()
    return text_inputs(model, texts, tokenizer)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise PassError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise PassError(f"{path}: cannot be read ({error.strerror}); give a text file") from error


def text_inputs(
    model: onnx.ModelProto, texts: Sequence[str], tokenizer: Tokenizer
) -> tuple[Mapping[str, np.ndarray], ...]:
    """The texts as the model's inputs: [CLS] text [SEP], cut or padded to its length. Raises PassError.

    tokenizer: the model's own.
    """
    template, rows = random_inputs(model, 0), dict(table_rows(model.graph))
    ids = max((name for name in rows if name in template), key=lambda name: rows[name], default=None)
    if ids is None:
        raise PassError("--calibrate: the model has no input of token ids; leave it out")
    words = max(tokenizer.get_vocab().values()) + 1
    if words > rows[ids]:
        raise PassError(f"--vocab: {words} words for a table of {rows[ids]} rows; give the model's own vocab.txt")
    tokens = template[ids].shape[-1]
    tokenizer.enable_truncation(tokens)
    samples = []
    for encoding in tokenizer.encode_batch(list(texts)):
        count = len(encoding.ids)
        sample = {}
        for name, value in template.items():
            if name == ids:
                row = np.array(encoding.ids + [0] * (tokens - count))
            elif "position" in name:
                row = np.arange(value.shape[-1])
            else:  # masks are 1 for tokens; what looks up a small table says which of two texts a token is of
                row = np.zeros(value.shape[-1]) if name in rows else np.arange(value.shape[-1]) < count
            sample[name] = np.broadcast_to(row, value.shape).astype(value.dtype)
        samples.append(sample)
    tokenizer.no_truncation()
    return tuple(samples)
