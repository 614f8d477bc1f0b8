"""WordPiece vocabularies: one piece a line in vocab.txt, its line number the id, uncased as BERT's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pocketbert.files import written_whole
from pocketbert.reading import WHITE_SPACE

from ..errors import ModelError
from ..progress import reading
from .text import lines, paragraphs, size_of, text_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_vocabulary(texts: Iterable[Path], path: Path, size: int = 30522, field: str = "text") -> Path:
    """Write a vocabulary of `size` pieces learnt from files of text; `field` holds it where they have rows.

    Pieces that are equally frequent come in no particular order, so keep the file: training again may choose others.
    Raises `ModelError` where the text cannot be read or has no words.
    """
    from tokenizers.implementations import BertWordPieceTokenizer

    least = len(SPECIAL) + 1
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


def read_vocabulary(path: Path) -> Tokenizer:
    """The tokenizer of a vocab.txt, without [CLS] and [SEP] added.

    Raises `ModelError` for a missing special piece or one that stands twice, with its line.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

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


def sentence_tokenizer(path: Path) -> Tokenizer:
    """The same with [CLS] and [SEP] around a text or a pair, as BERT's tokenizer.json has it."""
    from tokenizers import AddedToken, processors

    tokenizer = read_vocabulary(path)
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    ends = [(piece, tokenizer.token_to_id(piece)) for piece in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ends
    )
    return tokenizer
