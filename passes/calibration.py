"""Texts as inputs of a model: what its layers are sampled on in place of random ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from passes.errors import PassError
from passes.inputs import random_inputs, table_rows

LINES = 64  # of the file that are used, spread evenly over it


def read_texts(path: Path) -> list[str]:
    """The file's lines that are not empty, at most LINES of them. Raises PassError."""
    texts = [line.strip() for line in _read_lines(path) if line.strip()]
    if not texts:
        raise PassError(f"{path}: holds no text; give a file with one text a line")
    return texts[:: -(-len(texts) // LINES)]


def read_words(path: Path) -> list[str]:
    """The words of a vocab.txt, in the order of their ids. Raises PassError."""
    return [line.rstrip("\r") for line in _read_lines(path)]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise PassError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise PassError(f"{path}: cannot be read ({error.strerror}); give a text file") from error


def text_inputs(
    model: onnx.ModelProto, texts: Sequence[str], words: Sequence[str], cased: bool = False
) -> tuple[Mapping[str, np.ndarray], ...]:
    """The texts as the model's inputs: [CLS] text [SEP], cut or padded to its length. Raises PassError.

    words: BERT's vocabulary, in the order of the ids; cased: it tells upper from lower case.
    """
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError as error:
        raise PassError("--calibrate needs the tokenizers package: pip install tokenizers") from error
    template, rows = random_inputs(model, 0), dict(table_rows(model.graph))
    ids = max((name for name in rows if name in template), key=lambda name: rows[name], default=None)
    if ids is None:
        raise PassError("--calibrate: the model has no input of token ids; leave it out")
    if missing := {"[UNK]", "[CLS]", "[SEP]"} - set(words):
        raise PassError(f"--vocab: {min(missing)} is missing; give the model's vocab.txt")
    if len(words) > rows[ids]:
        raise PassError(f"--vocab: {len(words)} words for a table of {rows[ids]} rows; give the model's own vocab.txt")
    tokenizer = BertWordPieceTokenizer({word: index for index, word in enumerate(words)}, lowercase=not cased)
    tokens = template[ids].shape[-1]
    tokenizer.enable_truncation(tokens)
    samples = []
    for encoding in tokenizer.encode_batch(texts):
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
    return tuple(samples)
