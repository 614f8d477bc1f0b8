"""Vocabularies: WordPiece, one piece a line in vocab.txt, its line number the id, uncased as BERT's; or any other
tokenizer as its tokenizer.json, so that a student can share it with its teacher.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pocketbert.errors import first_line
from pocketbert.files import written_whole
from pocketbert.reading import WHITE_SPACE

from ..errors import ModelError
from ..progress import reading
from .text import lines, paragraphs, size_of, text_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTAS = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}


def train_vocabulary(texts: Iterable[Path], path: Path, size: int = 30522, field: str = "text") -> Path:
    """Write a vocabulary of `size` pieces learnt from files of text; `field` holds it where they have rows.

    Pieces that are equally frequent come in no particular order, so keep the file: training again may choose others.
    Raises `ModelError` where the text cannot be read or has no words.
    """
    from tokenizers.implementations import BertWordPieceTokenizer

    least = len(SPECIAL) + 1
    if path.suffix == ".json":
        raise ModelError(f"{path} is not there: a tokenizer.json is taken as it is, a vocab.txt can be learnt")
    if size < least:
        raise ModelError(f"a vocabulary of {size} pieces is too small: at least {least}")
    trained = BertWordPieceTokenizer(lowercase=True)
    files = text_files(texts)
    with reading("learning a vocabulary", size_of(files)) as read:
        words = (line for file in files for document in paragraphs(file, field, read) for line in document)
        trained.train_from_iterator(words, size, min_frequency=2, show_progress=False, special_tokens=list(SPECIAL))
    if trained.get_vocab_size() <= len(SPECIAL):
        raise ModelError(f"there are no words to train {path} on: the corpus is empty")
    pieces = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    with written_whole(path, ModelError) as file:
        file.write("".join(f"{piece}\n" for piece, _ in pieces).encode())
    return path


def vocabulary_in(folder: Path) -> Path:
    """The vocab.txt of a folder, or the tokenizer.json of one that has no such file."""
    path = folder / "vocab.txt"
    return path if path.exists() else folder / "tokenizer.json"


def read_vocabulary(path: Path) -> Tokenizer:
    """The tokenizer of a vocab.txt, without [CLS] and [SEP] added, or of a tokenizer.json, without padding and cuts.

    Raises `ModelError` for a missing special piece or one that stands twice, with its line.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    if path.suffix == ".json":
        tokenizer = read_tokenizer(path)
        if missing := [f"{piece} or {ROBERTAS[piece]}" for piece in SPECIAL if piece not in special_names(tokenizer)]:
            raise ModelError(f"{path}: {', '.join(missing)} is missing: not the tokenizer of a masked language model")
        return tokenizer
    vocabulary: dict[str, int] = {}
    for number, line in enumerate(lines(path)):
        piece = line.rstrip(WHITE_SPACE)
        if piece in vocabulary:
            raise ModelError(f"{path}:{number + 1}: piece {piece!r} already stands in line {vocabulary[piece] + 1}")
        vocabulary[piece] = number
    if missing := [piece for piece in SPECIAL if piece not in vocabulary]:
        raise ModelError(f"{path}: {', '.join(missing)} is missing: not a BERT vocabulary")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json, without padding and cuts. Raises `ModelError`."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # a bare Exception is all that it raises
        raise ModelError(f"{path} cannot be read: {first_line(error)}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def special_names(tokenizer: Tokenizer) -> dict[str, str]:
    """What the tokenizer calls BERT's special pieces: `<s>` is [CLS] of RoBERTa's; those that it has."""
    names = {piece: piece if tokenizer.token_to_id(piece) is not None else ROBERTAS[piece] for piece in SPECIAL}
    return {piece: name for piece, name in names.items() if tokenizer.token_to_id(name) is not None}


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {piece: int(tokenizer.token_to_id(name) or 0) for piece, name in special_names(tokenizer).items()}


def sentence_tokenizer(path: Path) -> Tokenizer:
    """The same with [CLS] and [SEP] around a text or a pair, as BERT's tokenizer.json has it."""
    from tokenizers import AddedToken, pre_tokenizers, processors

    tokenizer = read_vocabulary(path)
    if path.suffix != ".json":
        tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    names = special_names(tokenizer)
    cls, sep = names["[CLS]"], names["[SEP]"]
    ends: processors.PostProcessor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (cls, sep)],
    )
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):  # whose pieces begin with the blank before them
        ends = processors.Sequence([processors.ByteLevel(trim_offsets=True), ends])
    tokenizer.post_processor = ends
    return tokenizer
